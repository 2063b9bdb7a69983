// A backend's memory, and the way between it and the host's. What backend.h says of all operations
// holds here, too.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"

#include "common/kernels/device_timer.h"
#include "common/tensor/device.h"
#include "common/tensor/tensor.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

class BackendMemory {
 public:
  virtual ~BackendMemory() = default;
  virtual DeviceKind device_kind() const = 0;

  // Zero-filled, aligned to 64 bytes, freed before the backend. Without memory the process ends:
  // who takes much asks for AvailableBytes first (of the host's: the largest number there is).
  virtual Tensor NewTensor(DType dtype, const Shape& shape) = 0;
  virtual int64_t AvailableBytes() const = 0;

  // out = x; x, or out, is the host's. Equal shapes and types. Zero: out = 0.
  virtual absl::Status Upload(ConstTensorView x, TensorView out) = 0;
  virtual absl::Status Download(ConstTensorView x, TensorView out) = 0;
  virtual absl::Status Zero(TensorView out) = 0;

  // Of the host's memory, zero-filled. A device copies from and to it by itself (pinned), where the
  // system gives such memory; else copies are as right, and slower, which is logged.
  virtual Tensor NewHostTensor(DType dtype, const Shape& shape) { return {dtype, shape}; }
  // Makes mapped memory of the host's, whole pages, such memory, until UnpinHost, which comes
  // before it is unmapped. Any thread. False, which is logged, where that cannot be.
  virtual bool PinHost(void* /*data*/, int64_t /*bytes*/) { return false; }
  virtual void UnpinHost(void* /*data*/) {}

  // Operations may be gathered until somebody asks for what they give. This hands them to the
  // device: before its memory, or its stream, is used by others.
  virtual absl::Status Submit() { return absl::OkStatus(); }

  // Freed before the backend.
  virtual std::unique_ptr<DeviceTimer> NewTimer() { return std::make_unique<HostTimer>(); }

  // out[out_rows[i]] = x[x_rows[i]] along the outermost axis. No row is written twice, or both read
  // and written; `out` may be `x`. Errors: InvalidArgument for rows that do not exist.
  virtual absl::Status CopyRows(ConstTensorView x, std::span<const int32_t> x_rows, TensorView out,
                                std::span<const int32_t> out_rows) = 0;
  absl::Status CopyRow(ConstTensorView x, int32_t x_row, TensorView out, int32_t out_row) {
    return CopyRows(x, {&x_row, 1}, out, {&out_row, 1});
  }
};

// Memory of the host's that is pinned as long as this lives, if it can be.
class PinnedHost {
 public:
  // `memory` may be null: nothing is pinned. It and what `data` points to outlive this.
  PinnedHost(BackendMemory* memory, void* data, int64_t bytes)
      : memory_(memory != nullptr && memory->PinHost(data, bytes) ? memory : nullptr),
        data_(data) {}
  ~PinnedHost() {
    if (memory_ != nullptr) memory_->UnpinHost(data_);
  }
  PinnedHost(const PinnedHost&) = delete;
  PinnedHost& operator=(const PinnedHost&) = delete;

 private:
  BackendMemory* const memory_;  // null: it is not pinned
  void* const data_;
};

}  // namespace m1
