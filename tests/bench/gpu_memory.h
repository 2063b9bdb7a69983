// A large piece of a GPU's memory that is handed out in turn, so that nothing is in a cache when it
// comes up again.
#pragma once

#include <cstdint>

#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"

namespace m1 {

class GpuMemory {
 public:
  GpuMemory(KernelBackend* backend, int64_t bytes)
      : memory_(backend->NewTensor(DType::kI8, {bytes})) {}

  // Random bytes that are finite numbers of magnitude below 1 whatever the type.
  void Fill(KernelBackend* backend);

  // The next piece, from the beginning again where there is no room; aligned to 256 bytes.
  TensorView Next(DType dtype, const Shape& shape);
  int64_t bytes() const { return memory_.shape()[0]; }

 private:
  Tensor memory_;
  int64_t next_ = 0;
};

}  // namespace m1
