// One direction of a link: a communicator of two ranks and a stream of its own, on which transfers
// happen in the order in which they were asked for. Never waits. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"

#include "common/kernels/cuda/runtime.h"
#include "common/nccl/runtime.h"

namespace m1::nccl {

class Channel {
 public:
  enum class Direction { kSend, kReceive };

  // `rank` 0 or 1: the attention worker's, the expert worker's.
  Channel(Direction direction, int rank, int32_t num_slots);
  // Waits as Abort does.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Starts to connect to whoever has the same id. Once. Errors: Unavailable, Internal.
  absl::Status Open(const UniqueId& id);
  // Takes everything further. Errors: Unavailable naming NCCL's error, from then on always.
  absl::Status Poll();
  bool connected() const { return connected_; }

  // Transfers from now on begin after what `stream` was given so far.
  absl::Status After(cuda::Stream stream);
  // Memory of the device, which is the transfer's until is_idle(slot). Only while it is idle.
  void Transfer(int32_t slot, void* data, size_t bytes);
  bool is_idle(int32_t slot) const { return slots_[Index(slot)].state == State::kIdle; }
  bool all_idle() const;

  cuda::Stream stream() const { return stream_; }

 private:
  enum class State { kIdle, kQueued, kMoving };
  struct Slot {
    State state = State::kIdle;
    cuda::Event done = nullptr;
  };
  struct Request {
    int32_t slot = 0;
    void* data = nullptr;
    size_t bytes = 0;
    bool is_started = false;
  };

  static size_t Index(int32_t slot) { return static_cast<size_t>(slot); }
  absl::Status Advance();
  // Gives NCCL what is queued; a call that is not done keeps the others waiting.
  absl::Status StartQueued();
  absl::Status CheckMoving();

  const Direction direction_;
  const int rank_;
  cuda::Stream stream_ = nullptr;
  cuda::Event order_ = nullptr;
  Communicator communicator_ = nullptr;
  bool connected_ = false;
  absl::Status status_;
  std::vector<Slot> slots_;
  std::deque<Request> queued_;
};

}  // namespace m1::nccl
