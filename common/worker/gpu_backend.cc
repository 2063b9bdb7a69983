#include "common/worker/gpu_backend.h"

#include <utility>

#include "common/kernels/cuda_backend.h"

namespace m1 {

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateGpuBackend(DeviceFaultHandler on_fault) {
  return CreateCudaBackend(std::move(on_fault));
}

}  // namespace m1
