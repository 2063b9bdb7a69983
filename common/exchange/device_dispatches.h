// The attention worker's book of one DeviceLink: which dispatch has which slot, from when its rows
// leave until those of its answer were taken. Thread-compatible; Send and Take as DeviceLink's
// Gather.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/exchange/device_link.h"
#include "common/exchange/exchange.h"
#include "common/exchange/frame.h"

namespace m1 {

class DeviceDispatches {
 public:
  explicit DeviceDispatches(std::shared_ptr<DeviceLink> link);
  // Closes the link.
  ~DeviceDispatches();
  DeviceDispatches(const DeviceDispatches&) = delete;
  DeviceDispatches& operator=(const DeviceDispatches&) = delete;

  absl::Status Poll() { return link_->Poll(); }
  bool ready() const { return link_->ready(); }
  // When to Poll again; zero while an answer's rows are coming.
  absl::Duration poll_interval() const;

  // Rows of the batch of which a slot holds the dispatch and the answer; at least 1.
  int32_t MaxRows(const DispatchBatch& batch) const;
  // Sends rows[row_indices[i]] on their way and names their slot in the header. False, and nothing
  // is done, when there is no room for them now, or nothing to send. Errors: those of the backend.
  absl::StatusOr<bool> Send(ConstTensorView rows, std::span<const int32_t> row_indices,
                            FrameHeader* header);

  // The header of an answer whose rows come through the link has come. Errors: InvalidArgument when
  // it answers nothing that was sent, and the ends no longer agree about what comes.
  absl::Status OnAnswer(const FrameHeader& header);
  // An error has come in place of an answer, to this dispatch or to one that is not here.
  void OnError(uint64_t id);
  // Of an answer whose rows are here, until Release.
  std::optional<FrameHeader> NextAnswer() const;
  absl::Status Take(const FrameHeader& answer, TensorView out,
                    std::span<const int32_t> out_indices);
  void Release(const FrameHeader& answer);

 private:
  enum class State { kFree, kSent, kComing };
  struct Slot {
    State state = State::kFree;
    FrameHeader answer;  // what it must be
  };

  static size_t Index(int32_t slot) { return static_cast<size_t>(slot); }
  int32_t num_slots() const { return static_cast<int32_t>(slots_.size()); }
  // -1: there is none.
  int32_t FreeSlot() const;

  const std::shared_ptr<DeviceLink> link_;
  std::vector<Slot> slots_;
};

}  // namespace m1
