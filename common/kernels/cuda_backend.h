// KernelBackend on an NVIDIA GPU.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/kernels/device_fault.h"

struct CUstream_st;

namespace m1 {

// The first GPU that this process sees (CUDA_VISIBLE_DEVICES). Activations are bf16, weights bf16,
// embeddings and norms also fp32; everything else is Unimplemented by name. An error of the device
// is Internal, all calls after it that reach the device (Submit) fail likewise, and `on_fault`,
// which may be null, is told. Errors: Internal naming CUDA's error when the device cannot be used.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateCudaBackend(
    DeviceFaultHandler on_fault = nullptr);

// The stream (cudaStream_t) of the operations of a backend that CreateCudaBackend made, for those
// whose own streams wait for it.
CUstream_st* StreamOf(const KernelBackend& backend);

}  // namespace m1
