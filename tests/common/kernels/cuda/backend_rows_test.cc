// CudaKernelBackend's operations on rows and elements: the bits of the plain loops, or near them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "common/kernels/exact_math.h"
#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using CudaRowsTest = CudaBackendTest;

TEST_F(CudaRowsTest, EmbedTakesRowsOfTheWholeTable) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const DType type : kActTypes) {
      // M1's table in fp32 is 5 GB.
      const int64_t vocab = type == DType::kBf16 ? sizes.vocab : 1'003;
      const Tensor table = RandomMatrix(type, {vocab, sizes.hidden}, 1);
      const std::vector<int32_t> ids = {3, 0, static_cast<int32_t>(vocab - 1), 8, 3};
      Tensor want(DType::kF32, {5, sizes.hidden});
      Tensor got = Poison(DType::kF32, {5, sizes.hidden});
      ASSERT_OK(plain_->Embed(ids, table.view(), want.view()));
      ASSERT_OK(gpu_->Embed(ids, OnGpu(table).view(), got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
    }
  }
}

TEST_F(CudaRowsTest, ElementOperationsHaveTheBitsOfThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const int64_t rows : RowsUnderTest()) {
      const Shape shape{rows, sizes.hidden};
      const Tensor x = RandomMatrix(DType::kF32, shape, 1);
      const Tensor y = RandomMatrix(DType::kF32, shape, 2);
      const Tensor gpu_x = OnGpu(x);
      Tensor want(DType::kF32, shape);
      Tensor got = OnGpu(y);
      ASSERT_OK(plain_->ScaledAdd(1.5f, x.view(), 0.25f, y.view(), want.view()));
      ASSERT_OK(gpu_->ScaledAdd(1.5f, gpu_x.view(), 0.25f, got.view(), got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
      Tensor want_act(DType::kBf16, shape);
      Tensor got_act = Poison(DType::kBf16, shape);
      ASSERT_OK(plain_->Round(x.view(), want_act.view()));
      ASSERT_OK(gpu_->Round(gpu_x.view(), got_act.view()));
      EXPECT_TRUE(SameBits(OnHost(got_act).view(), want_act.view()));
      ASSERT_OK(plain_->SigmoidMul(x.view(), y.view(), want_act.view()));
      ASSERT_OK(gpu_->SigmoidMul(gpu_x.view(), OnGpu(y).view(), got_act.view()));
      EXPECT_TRUE(SameBits(OnHost(got_act).view(), want_act.view()));
    }
  }
}

// What subnormals, and numbers whose products are, become. The simulator and the plain loops flush
// them; so must a GPU.
TEST_F(CudaRowsTest, SubnormalsAreFlushed) {
  RandomTensors random(11, Spice::kSubnormals);
  const Shape shape{7, 100};
  const Tensor x = random.Make(DType::kF32, shape);
  const Tensor y = random.Make(DType::kF32, shape);
  Tensor want(DType::kF32, shape);
  Tensor got = Poison(DType::kF32, shape);
  ASSERT_OK(plain_->ScaledAdd(1e-3f, x.view(), 1e-20f, y.view(), want.view()));
  ASSERT_OK(gpu_->ScaledAdd(1e-3f, OnGpu(x).view(), 1e-20f, OnGpu(y).view(), got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
}

// Of numbers of every size and sign: exp, division and multiplication of a GPU.
TEST_F(CudaRowsTest, SigmoidAndProductHaveTheBitsOfExactMath) {
  const uint64_t step = OnRealGpu() ? 257 : 1'000'003;
  std::vector<float> numbers;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += step) {
    numbers.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  const Shape shape{1, static_cast<int64_t>(numbers.size())};
  const Tensor other = RandomMatrix(DType::kF32, shape, 3);
  const ConstTensorView gate(numbers.data(), DType::kF32, shape);
  Tensor gpu_gate = gpu_->NewTensor(DType::kF32, shape);
  ASSERT_OK(gpu_->Upload(gate, gpu_gate.view()));
  Tensor want(DType::kBf16, shape);
  Tensor got = Poison(DType::kBf16, shape);
  ASSERT_OK(plain_->SigmoidMul(gate, other.view(), want.view()));
  ASSERT_OK(gpu_->SigmoidMul(gpu_gate.view(), OnGpu(other).view(), got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
  // In fp32, by a product of one column with silu.
  const ConstTensorView column(numbers.data(), DType::kF32, {shape[1], 1});
  Tensor one(DType::kF32, {1, 1});
  one.data_as<float>()[0] = 1.0f;
  Tensor want_silu(DType::kF32, {shape[1], 1});
  Tensor got_silu = Poison(DType::kF32, {shape[1], 1});
  ASSERT_OK(plain_->Linear(column, one.view(), Epilogue::kSilu, want_silu.view()));
  ASSERT_OK(gpu_->Linear(gpu_gate.view().Reshape({shape[1], 1}), OnGpu(one).view(), Epilogue::kSilu,
                         got_silu.view()));
  EXPECT_TRUE(SameBits(OnHost(got_silu).view(), want_silu.view()));
}

// The order of row_kernels.h: thread t of 256 takes elements t, t + 256, ...; 32 lanes are added by
// a tree, eight warps one after another.
float SumOfSquares(const float* x, int64_t n) {
  constexpr int kThreads = 256;
  constexpr int kLanes = 32;
  std::vector<float> sums(kThreads, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    float& sum = sums[static_cast<size_t>(i % kThreads)];
    sum = std::fma(x[i], x[i], sum);
  }
  float total = 0.0f;
  for (auto warp = sums.begin(); warp != sums.end(); warp += kLanes) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) warp[lane] = warp[lane] + warp[lane + half];
    }
    total = total + warp[0];
  }
  return total;
}

Tensor NormInTheGpusOrder(const Tensor& x, const Tensor& weight, float eps) {
  const ScopedFlushDenormals flush;
  Tensor out(DType::kF32, x.shape());
  const int64_t n = x.shape()[1];
  for (int64_t row = 0; row < x.shape()[0]; ++row) {
    const float* in = x.data_as<float>() + row * n;
    const float scale = 1.0f / std::sqrt(SumOfSquares(in, n) / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      const float w = weight.dtype() == DType::kBf16 ? Bf16ToFloat(weight.data_as<Bf16>()[i])
                                                     : weight.data_as<float>()[i];
      out.data_as<float>()[row * n + i] = w * (in[i] * scale);
    }
  }
  return out;
}

TEST_F(CudaRowsTest, NormIsNearThePlainLoopAndHasTheBitsOfItsOwnOrder) {
  for (const int64_t n : {int64_t{1}, int64_t{300}, SizesUnderTest().back().hidden,
                          SizesUnderTest().back().heads * SizesUnderTest().back().head_dim}) {
    for (const DType weight_type : kActTypes) {
      const Tensor x = RandomMatrix(DType::kF32, {9, n}, 5, -1);
      const Tensor weight = RandomMatrix(weight_type, {n}, 6, -1);
      Tensor want(DType::kF32, {9, n});
      Tensor got = OnGpu(x);
      ASSERT_OK(plain_->RmsNorm(x.view(), weight.view(), 1e-5f, want.view()));
      ASSERT_OK(gpu_->RmsNorm(got.view(), OnGpu(weight).view(), 1e-5f, got.view()));
      const Tensor result = OnHost(got);
      EXPECT_TRUE(Near(result, want, 2e-6)) << n;
      EXPECT_TRUE(SameBits(result.view(), NormInTheGpusOrder(x, weight, 1e-5f).view())) << n;
    }
  }
}

TEST_F(CudaRowsTest, TheGateHasTheBitsOfThePlainLoop) {
  for (const int64_t experts : {2, 5, 32, 33, 256}) {
    for (const int64_t rows : RowsUnderTest()) {
      const int64_t k = std::min<int64_t>(experts, 2);
      const Tensor logits = random_.Make(DType::kF32, {rows, experts});
      Tensor want_ids(DType::kI32, {rows, k});
      Tensor want_weights(DType::kF32, {rows, k});
      Tensor ids = Poison(DType::kI32, {rows, k});
      Tensor weights = Poison(DType::kF32, {rows, k});
      ASSERT_OK(plain_->TopKGate(logits.view(), want_ids.view(), want_weights.view()));
      ASSERT_OK(gpu_->TopKGate(OnGpu(logits).view(), ids.view(), weights.view()));
      EXPECT_TRUE(SameBits(OnHost(ids).view(), want_ids.view())) << experts;
      EXPECT_TRUE(SameBits(OnHost(weights).view(), want_weights.view())) << experts;
    }
  }
}

TEST_F(CudaRowsTest, CombineAndMixHaveTheBitsOfThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const int64_t rows : RowsUnderTest()) {
      const Shape shape{rows, sizes.hidden};
      const Tensor y = RandomMatrix(DType::kBf16, {rows, 2, sizes.hidden}, 1);
      const Tensor weights = RandomMatrix(DType::kF32, {rows, 2}, 2);
      Tensor want(DType::kF32, shape);
      Tensor got = Poison(DType::kF32, shape);
      ASSERT_OK(plain_->CombineExperts(y.view(), weights.view(), want.view()));
      ASSERT_OK(gpu_->CombineExperts(OnGpu(y).view(), OnGpu(weights).view(), got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
      const Tensor shared = RandomMatrix(DType::kF32, shape, 3);
      const Tensor coefficient = RandomMatrix(DType::kF32, {rows, 1}, 4);
      ASSERT_OK(
          plain_->SharedExpertMix(want.view(), shared.view(), coefficient.view(), want.view()));
      ASSERT_OK(gpu_->SharedExpertMix(got.view(), OnGpu(shared).view(), OnGpu(coefficient).view(),
                                      got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
    }
  }
}

}  // namespace
}  // namespace m1
