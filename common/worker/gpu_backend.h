// KernelBackend of the GPU, in programs that were built with CUDA (cmake --preset cuda).
#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/kernels/device_fault.h"

namespace m1 {

// As CreateCudaBackend. Errors: Unimplemented in other programs.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateGpuBackend(DeviceFaultHandler on_fault);

}  // namespace m1
