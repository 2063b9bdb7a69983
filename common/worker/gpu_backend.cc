#include "common/worker/gpu_backend.h"

#include "common/kernels/cuda_backend.h"

namespace m1 {

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateGpuBackend() { return CreateCudaBackend(); }

}  // namespace m1
