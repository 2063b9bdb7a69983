#include "common/kernels/cuda/device_queue.h"

#include <algorithm>

namespace m1::cuda {

DeviceQueue::~DeviceQueue() {
  FreeArrays();
  FreeDevice(scratch_);
}

absl::Status DeviceQueue::Submit() {
  if (used_ > sent_) gathered_.set_copy({device_ + sent_, pinned_ + sent_, used_ - sent_});
  sent_ = used_;
  if (gathered_.empty()) return absl::OkStatus();
  const LaunchError error = graphs_.Run(gathered_, stream_);
  gathered_.Clear();
  return errors_->ToStatus(error, "launch");
}

absl::Status DeviceQueue::CopyToDevice(void* device, const void* host, size_t bytes) {
  M1_RETURN_IF_ERROR(Submit());
  return Drained(ToDevice(device, host, bytes, stream_), "upload");
}

absl::Status DeviceQueue::CopyToHost(void* host, const void* device, size_t bytes) {
  M1_RETURN_IF_ERROR(Submit());
  return Drained(ToHost(host, device, bytes, stream_), "download");
}

void DeviceQueue::Free(void* device) {
  static_cast<void>(Submit());  // an error is told to the handler of faults
  FreeDevice(device);           // waits
}

absl::Status DeviceQueue::Drained(LaunchError error, absl::string_view what) {
  M1_RETURN_IF_ERROR(errors_->ToStatus(error, what));
  used_ = sent_ = 0;
  return absl::OkStatus();
}

absl::Status DeviceQueue::Reserve(size_t bytes) {
  if (used_ + bytes <= capacity_) return absl::OkStatus();
  M1_RETURN_IF_ERROR(Submit());
  M1_RETURN_IF_ERROR(Drained(Synchronize(stream_), "wait"));
  return bytes <= capacity_ ? absl::OkStatus() : GrowArrays(bytes);
}

absl::Status DeviceQueue::GrowArrays(size_t bytes) {
  constexpr size_t kFirstBytes = size_t{1} << 20;
  const size_t grown = std::max({kFirstBytes, 2 * capacity_, 2 * bytes});
  FreeArrays();
  void* pinned = nullptr;
  void* device = nullptr;
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocatePinned(grown, &pinned), "upload buffer"));
  pinned_ = static_cast<std::byte*>(pinned);
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocateDevice(grown, &device), "upload buffer"));
  device_ = static_cast<std::byte*>(device);
  capacity_ = grown;
  return absl::OkStatus();
}

void DeviceQueue::FreeArrays() {
  FreePinned(pinned_);
  FreeDevice(device_);
  pinned_ = device_ = nullptr;
  capacity_ = 0;
}

absl::StatusOr<void*> DeviceQueue::Scratch(size_t bytes) {
  if (bytes <= scratch_capacity_) return scratch_;
  // Not Drained: arrays of the operation that asks are still to be read.
  M1_RETURN_IF_ERROR(Submit());
  M1_RETURN_IF_ERROR(errors_->ToStatus(Synchronize(stream_), "scratch"));
  FreeDevice(scratch_);
  scratch_ = nullptr;
  const size_t grown = std::max(bytes, 2 * scratch_capacity_);
  scratch_capacity_ = 0;
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocateDevice(grown, &scratch_), "scratch"));
  scratch_capacity_ = grown;
  return scratch_;
}

}  // namespace m1::cuda
