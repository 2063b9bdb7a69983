// Which GPU a test of CudaKernelBackend was linked with: m1_gpu_test makes two programs of it.
#pragma once

namespace m1 {

// False: the simulated one, where a product of 64 x 64 elements takes a millisecond.
bool OnRealGpu();

}  // namespace m1
