// KernelBackend of the GPU, in programs that were built with CUDA (cmake --preset cuda).
#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "common/kernels/backend.h"

namespace m1 {

// Errors: Unimplemented in other programs; those of CreateCudaBackend.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateGpuBackend();

}  // namespace m1
