#include "common/kernels/cuda/device_buffers.h"

#include <algorithm>

namespace m1::cuda {

absl::Status UploadRing::Reserve(size_t bytes) {
  if (used_ + bytes <= capacity_) return absl::OkStatus();
  M1_RETURN_IF_ERROR(
      errors_->ToStatus(Synchronize(stream_), "upload"));  // it may still read what is there
  if (bytes > capacity_) M1_RETURN_IF_ERROR(Grow(bytes));
  used_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<UploadRing::Place> UploadRing::Take(size_t bytes) {
  M1_RETURN_IF_ERROR(Reserve(bytes));
  const Place place{static_cast<unsigned char*>(pinned_) + used_,
                    static_cast<unsigned char*>(device_) + used_};
  used_ += bytes;
  return place;
}

absl::Status UploadRing::Grow(size_t bytes) {
  constexpr size_t kFirstBytes = size_t{1} << 20;
  Free();
  const size_t grown = std::max({kFirstBytes, 2 * capacity_, 2 * bytes});
  capacity_ = 0;
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocatePinned(grown, &pinned_), "upload buffer"));
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocateDevice(grown, &device_), "upload buffer"));
  capacity_ = grown;
  return absl::OkStatus();
}

void UploadRing::Free() {
  FreePinned(pinned_);
  FreeDevice(device_);
  pinned_ = nullptr;
  device_ = nullptr;
}

absl::StatusOr<void*> Scratch::Reserve(size_t bytes) {
  if (bytes <= capacity_) return data_;
  M1_RETURN_IF_ERROR(errors_->ToStatus(Synchronize(stream_), "scratch"));
  FreeDevice(data_);
  data_ = nullptr;
  const size_t grown = std::max(bytes, 2 * capacity_);
  capacity_ = 0;
  M1_RETURN_IF_ERROR(errors_->ToStatus(AllocateDevice(grown, &data_), "scratch"));
  capacity_ = grown;
  return data_;
}

}  // namespace m1::cuda
