// DeviceTimer of a queue: a timestamp before and after.
#pragma once

#include <deque>
#include <vector>

#include "common/kernels/cuda/device_queue.h"
#include "common/kernels/cuda/runtime.h"
#include "common/kernels/device_timer.h"

namespace m1::cuda {

class EventTimer final : public DeviceTimer {
 public:
  // Intervals that the device has not passed; further ones are not measured.
  static constexpr size_t kMaxWaiting = 64;

  // `queue` is borrowed and outlives this.
  explicit EventTimer(DeviceQueue* queue) : queue_(queue) {}
  ~EventTimer() override;
  EventTimer(const EventTimer&) = delete;
  EventTimer& operator=(const EventTimer&) = delete;

  void Begin() override;
  void End(Done done) override;

 private:
  struct Interval {
    Timestamp begin = nullptr;
    Timestamp end = nullptr;
    Done done;
  };

  // Hands over what the device has passed.
  void Collect();
  // Null where there is none.
  Timestamp NewMark();

  DeviceQueue* const queue_;
  Timestamp begin_ = nullptr;      // of the Begin without End
  std::deque<Interval> waiting_;   // oldest first
  std::vector<Timestamp> unused_;  // to be recorded again
};

}  // namespace m1::cuda
