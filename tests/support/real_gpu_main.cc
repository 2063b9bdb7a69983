// main of tests that run on a real GPU. Without one they are skipped, as CTest reads exit code 77.
#include <gmock/gmock.h>

#include <cstdio>

#include "common/kernels/cuda/runtime.h"
#include "tests/support/gpu_under_test.h"

namespace m1 {

bool OnRealGpu() { return true; }

}  // namespace m1

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  testing::InitGoogleMock(&argc, argv);
  size_t bytes = 0;
  if (const m1::cuda::LaunchError error = m1::cuda::AvailableDeviceBytes(&bytes); error != 0) {
    std::printf("skipped: no GPU: %s\n", m1::cuda::ErrorName(error));
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
