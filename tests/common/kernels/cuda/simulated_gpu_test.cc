// What only a simulated GPU tells of CudaKernelBackend: faults, leaks, bank conflicts.
#include "tests/support/simulated_gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/kernels/cuda/softmax_args.h"
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

// Operands of some calls: copies, launches, and those that wait for results.
struct Operands {
  explicit Operands(KernelBackend* backend)
      : gpu(backend),
        x(gpu->NewTensor(DType::kF32, {2, 64})),
        weights(gpu->NewTensor(DType::kBf16, {8, 64})),
        out(gpu->NewTensor(DType::kF32, {2, 8})) {}

  // As far as the device.
  absl::Status Call(int which) {
    absl::Status status = Operation(which);
    status.Update(gpu->Submit());
    return status;
  }
  absl::Status Operation(int which) {
    switch (which) {
      case 0:
        return gpu->Upload(host.view(), x.view());
      case 1:
        return gpu->Download(x.view(), host.view());
      case 2:
        return gpu->Zero(x.view());
      case 3:
        return gpu->CopyRow(x.view(), 0, x.view(), 1);
      case 4:
        return gpu->ScaledAdd(1, x.view(), 1, x.view(), x.view());
      case 5:
        return Product();
      default:
        return gpu->LogSumExp(out.view(), temperatures, std::span<float>(lse));
    }
  }
  // With scratch memory.
  absl::Status Product() {
    return gpu->Linear(x.view(), weights.view(), Epilogue::kNone, out.view());
  }
  static constexpr int kNumCalls = 7;

  KernelBackend* const gpu;
  Tensor host{DType::kF32, {2, 64}};
  Tensor x, weights, out;
  const std::vector<float> temperatures = {1, 1};
  std::vector<float> lse = {0, 0};
};

TEST(SimulatedGpuTest, WhateverCallMeetsALostDeviceTellsOfItOnce) {
  for (int which = 0; which < Operands::kNumCalls; ++which) {
    std::vector<absl::Status> faults;
    const auto gpu =
        CreateCudaBackend([&](const absl::Status& fault) { faults.push_back(fault); }).value();
    Operands operands(gpu.get());
    ASSERT_OK(operands.Call(which));
    EXPECT_TRUE(faults.empty());
    cuda::LoseSimulatedGpu();
    const absl::Status status = operands.Call(which);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("cudaErrorLaunchFailure")));
    EXPECT_EQ(operands.Call(which), status);
    EXPECT_EQ(faults, std::vector{status}) << which;
    cuda::ResetSimulatedGpu();
  }
}

TEST(SimulatedGpuTest, ACallWithoutMemoryLosesNoDevice) {
  int num_faults = 0;
  const auto gpu = CreateCudaBackend([&](const absl::Status&) { ++num_faults; }).value();
  Operands operands(gpu.get());
  {
    const Tensor rest = gpu->NewTensor(DType::kI8, {gpu->AvailableBytes() - 100});
    EXPECT_THAT(operands.Product(),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("cudaErrorMemoryAllocation")));
  }
  EXPECT_OK(operands.Product());
  EXPECT_EQ(num_faults, 0);
}

// Of the smallest model that is taken: grids have bounds that its operations need not name.
ModelShape SmallShape() {
  return {.hidden_size = 8,
          .num_attention_heads = 1,
          .num_key_value_heads = 1,
          .head_dim = 32,
          .num_local_experts = 1,
          .num_experts_per_tok = 1,
          .intermediate_size = 8,
          .vocab_size = 1,
          .has_lightning_layers = true,
          .has_softmax_layers = true};
}

TEST(SimulatedGpuTest, VocabulariesThatNoGridHoldsAreRefused) {
  constexpr int64_t kMostFeatures = 65535 * 32;
  const auto gpu = CreateCudaBackend().value();
  ModelShape shape = SmallShape();
  shape.vocab_size = kMostFeatures;
  EXPECT_OK(gpu->CheckModel(shape));
  ++shape.vocab_size;
  EXPECT_THAT(gpu->CheckModel(shape),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("vocab_size is 2097121, a GPU takes at most 2097120")));
  const Tensor x = gpu->NewTensor(DType::kBf16, {1, 8});
  const Tensor head = gpu->NewTensor(DType::kBf16, {shape.vocab_size, 8});
  Tensor logits = gpu->NewTensor(DType::kF32, {1, shape.vocab_size});
  EXPECT_THAT(gpu->Linear(x.view(), head.view(), Epilogue::kNone, logits.view()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("cudaErrorInvalidConfiguration")));
}

TEST(SimulatedGpuTest, HeadsThatNoGridHoldsAreRefused) {
  const auto gpu = CreateCudaBackend().value();
  ModelShape shape = SmallShape();
  const auto segments = [&shape] {
    cuda::SoftmaxArgs args{};
    args.heads = args.kv_heads = static_cast<int32_t>(shape.num_key_value_heads);
    args.max_rows = cuda::kFewQueries;
    args.max_keys = args.num_sequences = 1;
    return cuda::SoftmaxSegmentsGrid<cuda::SoftmaxFew<32>>(args);
  };
  shape.num_attention_heads = shape.num_key_value_heads = 65535 / 4;
  EXPECT_OK(gpu->CheckModel(shape));
  EXPECT_TRUE(IsLaunchable(segments()));
  shape.num_attention_heads = ++shape.num_key_value_heads;
  EXPECT_THAT(gpu->CheckModel(shape), StatusIs(absl::StatusCode::kUnimplemented,
                                               HasSubstr("num_key_value_heads is 16384, a GPU")));
  EXPECT_FALSE(IsLaunchable(segments()));
  shape.num_attention_heads = 1025;
  shape.num_key_value_heads = 1;
  EXPECT_THAT(gpu->CheckModel(shape),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("num_attention_heads / num_key_value_heads is 1025")));
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
