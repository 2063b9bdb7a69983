// A launch. Only .cu files include this.
#pragma once

#include <cuda_runtime.h>

#include "common/kernels/cuda/launch.h"

namespace m1::cuda {

// Nothing to do where the grid has no blocks.
template <typename Args>
LaunchError LaunchKernel(void (*kernel)(Args), const LaunchGrid& grid, const Args& args,
                         Stream stream) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return cudaSuccess;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes);
  if (error != cudaSuccess) return cudaGetLastError();
  const dim3 blocks(static_cast<unsigned>(grid.blocks.x), static_cast<unsigned>(grid.blocks.y),
                    static_cast<unsigned>(grid.blocks.z));
  kernel<<<blocks, static_cast<unsigned>(grid.threads), static_cast<size_t>(grid.shared_bytes),
           stream>>>(args);
  return cudaGetLastError();
}

}  // namespace m1::cuda
