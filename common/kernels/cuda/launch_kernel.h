// What the .cu files share, and only they include: a launch, or a note of one.
#pragma once

#include <cuda_runtime.h>

#include "common/kernels/cuda/launch.h"

namespace m1::cuda {

// What a call returned must not be returned by the next launch, too.
inline cudaError_t Forget(cudaError_t error) {
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  return error;
}

// More than this is asked for by an attribute of the kernel.
inline constexpr int kPlainSharedBytes = 48 * 1024;

inline dim3 BlocksOf(const LaunchGrid& grid) {
  return {static_cast<unsigned>(grid.blocks.x), static_cast<unsigned>(grid.blocks.y),
          static_cast<unsigned>(grid.blocks.z)};
}

// `args` points to what the kernel takes.
inline LaunchError LaunchNow(const void* kernel, const LaunchGrid& grid, const void* args,
                             Stream stream) {
  void* pointers[] = {const_cast<void*>(args)};
  static_cast<void>(cudaLaunchKernel(kernel, BlocksOf(grid), static_cast<unsigned>(grid.threads),
                                     pointers, static_cast<size_t>(grid.shared_bytes), stream));
  return cudaGetLastError();
}

// Nothing to do where the grid has no blocks.
template <typename Args>
LaunchError LaunchKernel(void (*kernel)(Args), const LaunchGrid& grid, const Args& args,
                         LaunchTarget target) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return cudaSuccess;
  if (!IsLaunchable(grid)) return cudaErrorInvalidConfiguration;
  if (grid.shared_bytes > kPlainSharedBytes) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes);
    if (error != cudaSuccess) return cudaGetLastError();
  }
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (target.list() == nullptr) return LaunchNow(function, grid, &args, target.stream());
  target.list()->Add(function, grid, args);
  return cudaSuccess;
}

}  // namespace m1::cuda
