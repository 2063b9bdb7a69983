// What only a simulated GPU tells of CudaKernelBackend: faults, leaks, bank conflicts.
#include "tests/support/simulated_gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/kernels/cuda_backend.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

// Operands of the host are a fault of the device; it sticks, and says what it was.
TEST(SimulatedGpuTest, AFaultOfTheDeviceIsAnErrorOfAllLaterCalls) {
  const auto gpu = CreateCudaBackend().value();
  Tensor host(DType::kF32, {2, 64});
  Tensor out = gpu->NewTensor(DType::kBf16, {2, 64});
  EXPECT_OK(gpu->Round(host.view(), out.view()));  // enqueued
  Tensor down(DType::kBf16, {2, 64});
  EXPECT_THAT(gpu->Download(out.view(), down.view()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("cudaErrorIllegalAddress")));
  EXPECT_THAT(gpu->Zero(out.view()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("zero: cudaErrorIllegalAddress")));
  cuda::ResetSimulatedGpu();
}

TEST(SimulatedGpuTest, EverythingIsGivenBack) {
  const int64_t before = cuda::GetSimulatedGpuStats().allocated_bytes;
  {
    const auto gpu = CreateCudaBackend().value();
    const Tensor tensor = gpu->NewTensor(DType::kF32, {1000});
    Tensor rows = gpu->NewTensor(DType::kF32, {8, 64});
    const Tensor weights = gpu->NewTensor(DType::kBf16, {8, 64});
    Tensor out = gpu->NewTensor(DType::kF32, {8, 8});
    ASSERT_OK(gpu->Linear(rows.view(), weights.view(), Epilogue::kNone, out.view()));
    ASSERT_OK(gpu->CopyRow(rows.view(), 0, rows.view(), 1));
    EXPECT_GT(cuda::GetSimulatedGpuStats().allocated_bytes, before + 4000);
  }
  EXPECT_EQ(cuda::GetSimulatedGpuStats().allocated_bytes, before);
  EXPECT_EQ(cuda::GetSimulatedGpuStats().bank_conflicts, 0);
}

TEST(SimulatedGpuTest, MemoryIsFinite) {
  const auto gpu = CreateCudaBackend().value();
  const int64_t before = gpu->AvailableBytes();
  const Tensor tensor = gpu->NewTensor(DType::kF32, {1000});
  EXPECT_EQ(gpu->AvailableBytes(), before - 4000);
  EXPECT_DEATH(gpu->NewTensor(DType::kF32, {cuda::kSimulatedGpuBytes}),
               "memory of the device: cudaErrorMemoryAllocation");
}

}  // namespace
}  // namespace m1
