// The kernels over rows and elements in the simulator: the bits of the plain loops, except the RMS
// norm, whose sum has an order of its own.
#include "common/kernels/cuda/row_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/kernels/backend.h"
#include "common/kernels/cuda/element_kernels.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

template <typename Act>
constexpr DType kDType = sizeof(Act) == sizeof(Bf16) ? DType::kBf16 : DType::kF32;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

template <typename Act>
class RowKernelsTest : public testing::Test {
 protected:
  // Runs a kernel over `count` elements of `out`; each is written once.
  template <typename T, typename Kernel>
  void Run(const LaunchGrid& grid, Tensor& out, Kernel kernel) {
    memory_.AddOutput(Elements<T>(out));
    RunClean(grid, memory_, kernel);
    ExpectWritten(memory_, std::span<const T>(Elements<T>(out)), 1);
  }

  template <typename T = float>
  const T* Input(const Tensor& tensor) {
    memory_.AddInput(Elements<T>(tensor));
    return tensor.data_as<T>();
  }

  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  RandomTensors random_{3, Spice::kSubnormals};
  SimulatedMemory memory_;
};

using ActTypes = testing::Types<float, Bf16>;
TYPED_TEST_SUITE(RowKernelsTest, ActTypes);

// What the functions of exact_math.h give, for numbers of every size and sign.
TEST(DeviceMathTest, HasTheBitsOfExactMath) {
  const ScopedFlushDenormals flush;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 65'537) {
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(Exp(x)) && std::isnan(Silu(x)));
      continue;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(Exp(x)), std::bit_cast<uint32_t>(ExactExp(x))) << x;
    ASSERT_EQ(std::bit_cast<uint32_t>(Sigmoid(x)), std::bit_cast<uint32_t>(ExactSigmoid(x))) << x;
    if (std::isnan(ExactSilu(x))) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(Silu(x)), std::bit_cast<uint32_t>(ExactSilu(x))) << x;
  }
}

TYPED_TEST(RowKernelsTest, Embed) {
  const std::vector<int32_t> ids = {4, 0, 4};
  const Tensor table = this->random_.Make(kDType<TypeParam>, {5, 131});
  Tensor want(DType::kF32, {3, 131});
  ASSERT_OK(this->reference_->Embed(ids, table.view(), want.view()));
  Tensor out = Poisoned(DType::kF32, {3, 131});
  this->memory_.AddInput(std::span<const int32_t>(ids));
  const EmbedArgs<TypeParam> args{ids.data(), this->template Input<TypeParam>(table),
                                  out.data_as<float>(), 3, 131};
  this->template Run<float>(ElementGrid(3 * 131), out,
                            [&](SimulatedThread& thread) { EmbedKernel<TypeParam>(thread, args); });
  EXPECT_TRUE(SameBits(out.view(), want.view()));
}

TYPED_TEST(RowKernelsTest, Round) {
  const Tensor x = this->random_.Make(DType::kF32, {3, 100});
  Tensor want(kDType<TypeParam>, {3, 100});
  ASSERT_OK(this->reference_->Round(x.view(), want.view()));
  Tensor out = Poisoned(kDType<TypeParam>, {3, 100});
  const RoundArgs<TypeParam> args{this->Input(x), out.data_as<TypeParam>(), 300};
  this->template Run<TypeParam>(ElementGrid(300), out, [&](SimulatedThread& thread) {
    RoundKernel<TypeParam>(thread, args);
  });
  EXPECT_TRUE(SameBits(out.view(), want.view()));
}

TYPED_TEST(RowKernelsTest, SigmoidMul) {
  const Tensor gate = this->random_.Make(DType::kF32, {3, 100});
  const Tensor x = this->random_.Make(DType::kF32, {3, 100});
  Tensor want(kDType<TypeParam>, {3, 100});
  ASSERT_OK(this->reference_->SigmoidMul(gate.view(), x.view(), want.view()));
  Tensor out = Poisoned(kDType<TypeParam>, {3, 100});
  const SigmoidMulArgs<TypeParam> args{this->Input(gate), this->Input(x), out.data_as<TypeParam>(),
                                       300};
  this->template Run<TypeParam>(ElementGrid(300), out, [&](SimulatedThread& thread) {
    SigmoidMulKernel<TypeParam>(thread, args);
  });
  EXPECT_TRUE(SameBits(out.view(), want.view()));
}

TYPED_TEST(RowKernelsTest, CombineExperts) {
  for (const int k : {1, 2, 3}) {
    this->memory_ = {};
    const Tensor y = this->random_.Make(kDType<TypeParam>, {5, k, 77});
    const Tensor weights = this->random_.Make(DType::kF32, {5, k});
    Tensor want(DType::kF32, {5, 77});
    ASSERT_OK(this->reference_->CombineExperts(y.view(), weights.view(), want.view()));
    Tensor out = Poisoned(DType::kF32, {5, 77});
    const CombineArgs<TypeParam> args{
        this->template Input<TypeParam>(y), this->Input(weights), out.data_as<float>(), 5, k, 77};
    this->template Run<float>(ElementGrid(5 * 77), out, [&](SimulatedThread& thread) {
      CombineKernel<TypeParam>(thread, args);
    });
    EXPECT_TRUE(SameBits(out.view(), want.view()));
  }
}

TYPED_TEST(RowKernelsTest, Rotary) {
  for (const int half : {0, 3, 16, 20}) {
    this->memory_ = {};
    const Tensor x = this->random_.Make(DType::kF32, {3, 2, 40});
    const Tensor cos = this->random_.Make(DType::kF32, {3, half});
    const Tensor sin = this->random_.Make(DType::kF32, {3, half});
    Tensor want(kDType<TypeParam>, {3, 2, 40});
    ASSERT_OK(this->reference_->Rotary(x.view(), cos.view(), sin.view(), want.view()));
    Tensor out = Poisoned(kDType<TypeParam>, {3, 2, 40});
    const RotaryArgs<TypeParam> args{this->Input(x),
                                     this->Input(cos),
                                     this->Input(sin),
                                     out.data_as<TypeParam>(),
                                     3,
                                     2,
                                     40,
                                     half};
    this->template Run<TypeParam>(ElementGrid(240), out, [&](SimulatedThread& thread) {
      RotaryKernel<TypeParam>(thread, args);
    });
    EXPECT_TRUE(SameBits(out.view(), want.view())) << "half " << half;
  }
}

// Two sequences, the first across a border of blocks.
TYPED_TEST(RowKernelsTest, AppendKv) {
  constexpr DType kAct = kDType<TypeParam>;
  const Tensor k = this->random_.Make(kAct, {5, 2, 24});
  const Tensor v = this->random_.Make(kAct, {5, 2, 24});
  const Shape pool_shape{4, 2, kKvBlockTokens, 24};
  Tensor want_k = Poisoned(kAct, pool_shape);
  Tensor want_v = Poisoned(kAct, pool_shape);
  const std::vector<int32_t> first_blocks = {3, 1};
  const std::vector<int32_t> second_blocks = {0};
  const std::vector<PagedSequence> sequences = {{{0, 3, 62}, first_blocks},
                                                {{3, 2, 7}, second_blocks}};
  ASSERT_OK(
      this->reference_->AppendKv(k.view(), v.view(), sequences, {want_k.view(), want_v.view()}));
  Tensor pool_k = Poisoned(kAct, pool_shape);
  Tensor pool_v = Poisoned(kAct, pool_shape);
  const std::vector<KvPlace> places = {{3, 62}, {3, 63}, {1, 0}, {0, 7}, {0, 8}};
  this->memory_.AddInput(std::span<const KvPlace>(places));
  this->memory_.AddOutput(Elements<TypeParam>(pool_k));
  this->memory_.AddOutput(Elements<TypeParam>(pool_v));
  const AppendKvArgs<TypeParam> args{this->template Input<TypeParam>(k),
                                     this->template Input<TypeParam>(v),
                                     places.data(),
                                     pool_k.data_as<TypeParam>(),
                                     pool_v.data_as<TypeParam>(),
                                     5,
                                     2,
                                     24,
                                     static_cast<int32_t>(kKvBlockTokens)};
  RunClean(ElementGrid(5 * 2 * 24), this->memory_,
           [&](SimulatedThread& thread) { AppendKvKernel<TypeParam>(thread, args); });
  EXPECT_TRUE(SameBits(pool_k.view(), want_k.view()));
  EXPECT_TRUE(SameBits(pool_v.view(), want_v.view()));
}

// Weights fp32 or bf16. A plain loop in the kernel's own order has its bits; the specification is
// near.
TYPED_TEST(RowKernelsTest, RmsNorm) {
  for (const int n : {1, 40, 256, 1000}) {
    this->memory_ = {};
    Tensor x = this->random_.Make(DType::kF32, {2, n});
    const Tensor weight = this->random_.Make(kDType<TypeParam>, {n});
    Tensor want(DType::kF32, {2, n});
    ASSERT_OK(this->reference_->RmsNorm(x.view(), weight.view(), 1e-5f, want.view()));
    Tensor out = Poisoned(DType::kF32, {2, n});
    const RmsNormArgs<TypeParam> args{this->Input(std::as_const(x)),
                                      this->template Input<TypeParam>(weight), out.data_as<float>(),
                                      n, 1e-5f};
    this->template Run<float>(RmsNormGrid(2), out, [&](SimulatedThread& thread) {
      RmsNormKernel<TypeParam>(thread, args);
    });
    // Sums of n squares differ by a few roundings, their root by half of that.
    for (int i = 0; i < 2 * n; ++i) {
      const float expected = want.data_as<float>()[i];
      EXPECT_NEAR(out.data_as<float>()[i], expected, std::fabs(expected) * 0x1p-20f) << n;
    }
    // Alone the second row is what it is beside the first.
    SimulatedMemory memory;
    Tensor alone = Poisoned(DType::kF32, {1, n});
    memory.AddInput(Elements<float>(std::as_const(x)));
    memory.AddInput(Elements<TypeParam>(weight));
    memory.AddOutput(Elements<float>(alone));
    const RmsNormArgs<TypeParam> second{x.data_as<float>() + n, args.weight, alone.data_as<float>(),
                                        n, 1e-5f};
    RunClean(RmsNormGrid(1), memory,
             [&](SimulatedThread& thread) { RmsNormKernel<TypeParam>(thread, second); });
    EXPECT_TRUE(SameBits(alone.view(), out.view().Rows(1, 1)));
  }
}

using RowKernelsF32Test = RowKernelsTest<float>;

TEST_F(RowKernelsF32Test, ScaledAddInPlace) {
  Tensor x = random_.Make(DType::kF32, {3, 100});
  const Tensor y = random_.Make(DType::kF32, {3, 100});
  Tensor want(DType::kF32, {3, 100});
  ASSERT_OK(reference_->ScaledAdd(3.5f, x.view(), 0.7f, y.view(), want.view()));
  const ScaledAddArgs args{3.5f, x.data_as<float>(), 0.7f, Input(y), x.data_as<float>(), 300};
  Run<float>(ElementGrid(300), x, [&](SimulatedThread& thread) { ScaledAddKernel(thread, args); });
  EXPECT_TRUE(SameBits(x.view(), want.view()));
}

TEST_F(RowKernelsF32Test, SharedExpertMix) {
  const Tensor moe = random_.Make(DType::kF32, {3, 50});
  const Tensor shared = random_.Make(DType::kF32, {3, 50});
  const Tensor logit = random_.Make(DType::kF32, {3, 1});
  Tensor want(DType::kF32, {3, 50});
  ASSERT_OK(reference_->SharedExpertMix(moe.view(), shared.view(), logit.view(), want.view()));
  Tensor out = Poisoned(DType::kF32, {3, 50});
  const SharedMixArgs args{Input(moe), Input(shared), Input(logit), out.data_as<float>(), 3, 50};
  Run<float>(ElementGrid(150), out,
             [&](SimulatedThread& thread) { SharedMixKernel(thread, args); });
  EXPECT_TRUE(SameBits(out.view(), want.view()));
}

// The three terms add up to the number itself.
TEST_F(RowKernelsF32Test, SplitIsExact) {
  RandomTensors random(5);
  const Tensor x = random.Make(DType::kF32, {1, 1000});
  Tensor parts = Poisoned(DType::kBf16, {3, 1000});
  const SplitArgs args{Input(x), parts.data_as<Bf16>(), 1000};
  Run<Bf16>(ElementGrid(1000), parts, [&](SimulatedThread& thread) { SplitKernel(thread, args); });
  for (int i = 0; i < 1000; ++i) {
    const auto part = [&](int p) {
      return static_cast<double>(Bf16ToFloat(parts.data_as<Bf16>()[p * 1000 + i]));
    };
    EXPECT_EQ(part(0) + part(1) + part(2), static_cast<double>(x.data_as<float>()[i]));
  }
}

class TopKGateTest : public RowKernelsTest<float> {
 protected:
  void Check(const Tensor& logits, int k) {
    memory_ = {};
    const auto rows = static_cast<int32_t>(logits.view().dim(0));
    const auto experts = static_cast<int32_t>(logits.view().dim(1));
    Tensor want_ids(DType::kI32, {rows, k});
    Tensor want_weights(DType::kF32, {rows, k});
    ASSERT_OK(reference_->TopKGate(logits.view(), want_ids.view(), want_weights.view()));
    Tensor ids(DType::kI32, {rows, k});
    Tensor weights = Poisoned(DType::kF32, {rows, k});
    memory_.AddOutput(Elements<int32_t>(ids));
    const TopKGateArgs args{
        Input(logits), ids.data_as<int32_t>(), weights.data_as<float>(), rows, experts, k};
    Run<float>(TopKGateGrid(rows), weights,
               [&](SimulatedThread& thread) { TopKGateKernel(thread, args); });
    ExpectWritten(memory_, std::span<const int32_t>(Elements<int32_t>(ids)), 1);
    EXPECT_TRUE(SameBits(ids.view(), want_ids.view())) << experts << " experts, k " << k;
    EXPECT_TRUE(SameBits(weights.view(), want_weights.view())) << experts << " experts, k " << k;
  }
};

TEST_F(TopKGateTest, RandomLogits) {
  for (const int experts : {1, 2, 31, 32, 33, 100, 256}) {
    for (const int k : {1, 2, 5}) {
      if (k <= experts) Check(random_.Make(DType::kF32, {6, experts}), k);
    }
  }
}

TEST_F(TopKGateTest, TiesAndWhatIsNoNumber) {
  Tensor logits(DType::kF32, {5, 40});  // row 0: all equal
  float* rows = logits.data_as<float>();
  rows[40 + 7] = rows[40 + 35] = rows[40 + 36] = 2.0f;
  rows[80 + 3] = kNaN;
  rows[120 + 39] = kInf;
  for (int i = 1; i < 40; ++i) rows[160 + i] = -kInf;
  Check(logits, 3);
}

}  // namespace
}  // namespace m1::cuda
