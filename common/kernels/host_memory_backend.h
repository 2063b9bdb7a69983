// The memory operations of backends whose operands lie in the host's memory.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "absl/status/status.h"

#include "common/kernels/backend.h"

namespace m1 {

class HostMemoryBackend : public KernelBackend {
 public:
  DeviceKind device_kind() const final { return DeviceKind::kCpu; }

  Tensor NewTensor(DType dtype, const Shape& shape) final { return Tensor(dtype, shape); }
  int64_t AvailableBytes() const final { return std::numeric_limits<int64_t>::max(); }
  absl::Status Upload(ConstTensorView x, TensorView out) final;
  absl::Status Download(ConstTensorView x, TensorView out) final { return Upload(x, out); }
  absl::Status Zero(TensorView out) final;
  absl::Status CopyRows(ConstTensorView x, std::span<const int32_t> x_rows, TensorView out,
                        std::span<const int32_t> out_rows) final;
};

}  // namespace m1
