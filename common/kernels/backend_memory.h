// A backend's memory, and the way between it and the host's. What backend.h says of all operations
// holds here, too.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"

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

  // out[out_rows[i]] = x[x_rows[i]] along the outermost axis. No row is written twice, or both read
  // and written; `out` may be `x`. Errors: InvalidArgument for rows that do not exist.
  virtual absl::Status CopyRows(ConstTensorView x, std::span<const int32_t> x_rows, TensorView out,
                                std::span<const int32_t> out_rows) = 0;
  absl::Status CopyRow(ConstTensorView x, int32_t x_row, TensorView out, int32_t out_row) {
    return CopyRows(x, {&x_row, 1}, out, {&out_row, 1});
  }
};

}  // namespace m1
