// The dispatches of one attention worker whose rows come through a device link: from the frame that
// says so until they are answered. Each has its slot, at both ends the same. Thread-compatible;
// Answer on the thread of the device.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "common/exchange/device_link.h"
#include "common/exchange/exchange.h"
#include "common/exchange/frame.h"

namespace m1 {

// A dispatch whose rows are here. Keeps their memory.
struct DeviceJob {
  FrameHeader answer_header;
  std::vector<RowExpert> pairs;
  std::shared_ptr<DeviceLink> link;
  ExpertJob work;  // views of the above
};

class DeviceJobs {
 public:
  explicit DeviceJobs(std::shared_ptr<DeviceLink> link);
  // Closes the link.
  ~DeviceJobs();
  DeviceJobs(const DeviceJobs&) = delete;
  DeviceJobs& operator=(const DeviceJobs&) = delete;

  // A frame says that its rows come: asks for them. Errors: InvalidArgument when its slot cannot
  // take them; the two ends no longer agree about what comes, and the connection is to end.
  absl::Status Expect(const FrameHeader& dispatch, std::vector<RowExpert> pairs);
  // As DeviceLink's.
  absl::Status Poll() { return link_->Poll(); }
  bool ready() const { return link_->ready(); }
  absl::Duration poll_interval() const { return link_->poll_interval(); }
  // Jobs whose rows have come; each then needs Answer or Release.
  std::vector<std::unique_ptr<DeviceJob>> TakeReady();
  // Sends the rows of the job's answer, as the device computes them.
  void Answer(const DeviceJob& job);
  // The job is answered by an error, which has no rows.
  void Release(const DeviceJob& job);
  // Jobs that are expected.
  int32_t num_expected() const { return static_cast<int32_t>(expected_.size()); }

 private:
  const std::shared_ptr<DeviceLink> link_;
  std::map<int32_t, std::unique_ptr<DeviceJob>> expected_;  // by slot
  std::vector<bool> is_open_;                               // slots with a job that is not answered
};

}  // namespace m1
