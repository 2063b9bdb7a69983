#include "common/nccl/channel.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/nccl/errors.h"

namespace m1::nccl {
Channel::Channel(Direction direction, int rank, int32_t num_slots)
    : direction_(direction), rank_(rank), slots_(Index(num_slots)) {}

Channel::~Channel() {
  if (communicator_ != nullptr) Abort(communicator_);
  if (stream_ != nullptr) cuda::CloseStream(stream_);
  if (order_ != nullptr) cuda::FreeEvent(order_);
  for (const Slot& slot : slots_) {
    if (slot.done != nullptr) cuda::FreeEvent(slot.done);
  }
}

absl::Status Channel::Open(const UniqueId& id) {
  M1_RETURN_IF_ERROR(CudaStatus(cuda::OpenTransferStream(&stream_), "transfer stream"));
  M1_RETURN_IF_ERROR(CudaStatus(cuda::NewEvent(&order_), "event"));
  for (Slot& slot : slots_) {
    M1_RETURN_IF_ERROR(CudaStatus(cuda::NewEvent(&slot.done), "event"));
  }
  return NcclStatus(StartCommunicator(id, 2, rank_, &communicator_), "connect");
}

absl::Status Channel::Poll() {
  if (status_.ok()) status_ = Advance();
  return status_;
}

absl::Status Channel::Advance() {
  const Result progress = Progress(communicator_);
  M1_RETURN_IF_ERROR(NcclStatus(progress, connected_ ? "transfer" : "connect"));
  connected_ = connected_ || progress == kSuccess;
  if (!connected_) return absl::OkStatus();
  M1_RETURN_IF_ERROR(StartQueued());
  return CheckMoving();
}

absl::Status Channel::StartQueued() {
  const int peer = 1 - rank_;
  while (!queued_.empty()) {
    Request& request = queued_.front();
    if (!request.is_started) {
      request.is_started = true;
      const Result result =
          direction_ == Direction::kSend
              ? Send(request.data, request.bytes, peer, communicator_, stream_)
              : Receive(request.data, request.bytes, peer, communicator_, stream_);
      M1_RETURN_IF_ERROR(NcclStatus(result, "transfer"));
    }
    // Only now is it in the stream.
    const Result progress = Progress(communicator_);
    M1_RETURN_IF_ERROR(NcclStatus(progress, "transfer"));
    if (progress == kInProgress) return absl::OkStatus();
    Slot& slot = slots_[Index(request.slot)];
    M1_RETURN_IF_ERROR(CudaStatus(cuda::RecordEvent(slot.done, stream_), "event"));
    slot.state = State::kMoving;
    queued_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status Channel::CheckMoving() {
  for (Slot& slot : slots_) {
    if (slot.state != State::kMoving) continue;
    bool done = false;
    M1_RETURN_IF_ERROR(CudaStatus(cuda::QueryEvent(slot.done, &done), "transfer"));
    if (done) slot.state = State::kIdle;
  }
  return absl::OkStatus();
}

absl::Status Channel::After(cuda::Stream stream) {
  M1_RETURN_IF_ERROR(CudaStatus(cuda::RecordEvent(order_, stream), "event"));
  return CudaStatus(cuda::WaitEvent(stream_, order_), "event");
}

void Channel::Transfer(int32_t slot, void* data, size_t bytes) {
  M1_CHECK(is_idle(slot));
  slots_[Index(slot)].state = State::kQueued;
  queued_.push_back({slot, data, bytes});
}

bool Channel::all_idle() const {
  return std::all_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return slot.state == State::kIdle; });
}

}  // namespace m1::nccl
