// CudaKernelBackend's memory, and what the host hands over: it arrives, and what the host asks for
// is there when the call returns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using testing::HasSubstr;

TEST_F(CudaBackendTest, NewTensorsAreZeroAndTransfersKeepBits) {
  const Tensor zero = OnHost(gpu_->NewTensor(DType::kF32, {3, 5}));
  EXPECT_TRUE(SameBits(zero.view(), Tensor(DType::kF32, {3, 5}).view()));
  const Tensor x = random_.Make(DType::kBf16, {7, 3});
  Tensor device = OnGpu(x);
  EXPECT_TRUE(SameBits(OnHost(device).view(), x.view()));
  ASSERT_OK(gpu_->Zero(device.view().Rows(2, 5)));
  const Tensor half = OnHost(device);
  EXPECT_TRUE(SameBits(half.view().Rows(0, 2), x.view().Rows(0, 2)));
  EXPECT_TRUE(SameBits(half.view().Rows(2, 5), Tensor(DType::kBf16, {5, 3}).view()));
}

TEST_F(CudaBackendTest, HostTensorsAreZeroAndTransfersKeepBits) {
  const Tensor x = random_.Make(DType::kBf16, {7, 3});
  Tensor host = gpu_->NewHostTensor(DType::kBf16, {7, 3});
  EXPECT_TRUE(SameBits(host.view(), Tensor(DType::kBf16, {7, 3}).view()));
  ASSERT_OK(gpu_->Download(OnGpu(x).view(), host.view()));
  EXPECT_TRUE(SameBits(host.view(), x.view()));
  EXPECT_TRUE(SameBits(OnHost(OnGpu(host)).view(), x.view()));
}

TEST_F(CudaBackendTest, CopyRowsTakesRowsOfAnyWidth) {
  for (const int64_t width : {1, 2, 3, 8, 24}) {  // of bf16: words of 1, 4 and 16 bytes
    const Tensor x = random_.Make(DType::kBf16, {5, width});
    const std::vector<int32_t> from = {4, 0, 4};
    const std::vector<int32_t> to = {1, 3, 0};
    Tensor want = Poisoned(DType::kBf16, {4, width});
    Tensor got = OnGpu(want);
    ASSERT_OK(plain_->CopyRows(x.view(), from, want.view(), to));
    ASSERT_OK(gpu_->CopyRows(OnGpu(x).view(), from, got.view(), to));
    EXPECT_TRUE(SameBits(OnHost(got).view(), want.view())) << width;
  }
}

// Arrays of the host change right after the call, more of them than the upload buffer holds.
TEST_F(CudaBackendTest, UploadsMayBeReusedAtOnce) {
  constexpr int32_t kRows = 60'000;
  Tensor x(DType::kI32, {kRows, 1});
  std::iota(x.data_as<int32_t>(), x.data_as<int32_t>() + kRows, 0);
  const Tensor from = OnGpu(x);
  std::vector<int32_t> ascending(kRows);
  std::iota(ascending.begin(), ascending.end(), 0);
  Tensor got = Poison(DType::kI32, {kRows, 1});
  const int32_t calls[][2] = {{0, 20'000}, {20'000, 20'000}, {40'000, 20'000}};
  for (const auto& [first, count] : calls) {
    std::vector<int32_t> rows(ascending.begin() + first, ascending.begin() + first + count);
    for (int again = 0; again < 4; ++again) {
      ASSERT_OK(gpu_->CopyRows(from.view(), rows, got.view(), rows));
    }
    rows.assign(rows.size(), 0);
  }
  EXPECT_TRUE(SameBits(OnHost(got).view(), x.view()));
}

TEST_F(CudaBackendTest, WhatNoKernelTakesIsRefusedByName) {
  const auto refused = [](const absl::Status& status, const char* message) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(message)));
  };
  Tensor f32 = gpu_->NewTensor(DType::kF32, {2, 64});
  Tensor bf16 = gpu_->NewTensor(DType::kBf16, {2, 64});
  Tensor odd = gpu_->NewTensor(DType::kBf16, {2, 9});
  Tensor out = gpu_->NewTensor(DType::kF32, {2, 2});
  refused(gpu_->Round(f32.view(), f32.view()), "round: out is fp32, a GPU takes bf16");
  refused(gpu_->Linear(bf16.view(), f32.view(), Epilogue::kNone, out.view()),
          "linear: w is fp32, a GPU takes bf16");
  refused(gpu_->Linear(odd.view(), odd.view(), Epilogue::kNone, out.view()),
          "linear: w has shape [2, 9], a GPU takes multiples of 8 columns");
  Tensor many = gpu_->NewTensor(DType::kF32, {1, 300});
  Tensor ids = gpu_->NewTensor(DType::kI32, {1, 2});
  Tensor weights = gpu_->NewTensor(DType::kF32, {1, 2});
  refused(gpu_->TopKGate(many.view(), ids.view(), weights.view()),
          "top_k_gate: 2 of 300 experts, a GPU takes at most 32 of 256");
}

}  // namespace
}  // namespace m1
