// CudaKernelBackend's products of integers: int8 with the bits of the plain loops, int4 with those
// of the GPU's own order.
#include <cmath>
#include <vector>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/quantized_dot.h"
#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using CudaQuantizedTest = CudaBackendTest;

TEST_F(CudaQuantizedTest, Int8LinearsHaveTheBitsOfThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const int64_t n = sizes.intermediate + 1;
    const Integers w = RandomIntegers(0, n, sizes.hidden, 1);
    const Integers gpu_w = OnGpu(w);
    // Beside the others.
    const Tensor plain = RandomWeights(DType::kBf16, 8, sizes.hidden, 2);
    const Tensor gpu_plain = OnGpu(plain);
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomMatrix(DType::kBf16, {rows, sizes.hidden}, 3, -1);
      Tensor want[] = {Tensor(DType::kF32, {rows, n}), Tensor(DType::kBf16, {rows, n}),
                       Tensor(DType::kF32, {rows, 8})};
      Tensor got[] = {OnGpu(want[0]), OnGpu(want[1]), OnGpu(want[2])};
      const LinearProduct wanted[] = {{w.view(), Epilogue::kNone, want[0].view()},
                                      {w.view(), Epilogue::kSilu, want[1].view()},
                                      {plain.view(), Epilogue::kNone, want[2].view()}};
      const LinearProduct products[] = {{gpu_w.view(), Epilogue::kNone, got[0].view()},
                                        {gpu_w.view(), Epilogue::kSilu, got[1].view()},
                                        {gpu_plain.view(), Epilogue::kNone, got[2].view()}};
      ASSERT_OK(plain_->Linears(x.view(), wanted));
      ASSERT_OK(gpu_->Linears(OnGpu(x).view(), products));
      EXPECT_TRUE(SameBits(OnHost(got[0]).view(), want[0].view())) << rows;
      EXPECT_TRUE(SameBits(OnHost(got[1]).view(), want[1].view())) << rows;
      EXPECT_TRUE(Near(OnHost(got[2]), want[2], ProductTolerance(sizes.hidden))) << rows;
    }
  }
}

TEST_F(CudaQuantizedTest, Int8OfFloatRowsHasTheBitsOfThePlainLoops) {
  const ModelSizes sizes = SizesUnderTest().back();
  const int64_t vocab = OnRealGpu() ? 20'001 : 65;
  const Integers w = RandomIntegers(0, vocab, sizes.hidden, 1);
  const Tensor x = RandomMatrix(DType::kF32, {9, sizes.hidden}, 2, -1);
  Tensor want(DType::kF32, {9, vocab});
  Tensor got = Poison(DType::kF32, {9, vocab});
  ASSERT_OK(plain_->Linear(x.view(), w.view(), Epilogue::kNone, want.view()));
  ASSERT_OK(gpu_->Linear(OnGpu(x).view(), OnGpu(w).view(), Epilogue::kNone, got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
}

// Three matrices of an expert.
struct Expert {
  Integers w1, w2, w3;

  ExpertGroup Group(int64_t begin, int64_t rows) const {
    return {begin, rows, w1.view(), w2.view(), w3.view()};
  }
};

Expert RandomExpert(int64_t group, const ModelSizes& sizes) {
  return {RandomIntegers(group, sizes.intermediate, sizes.hidden, 1),
          RandomIntegers(group, sizes.hidden, sizes.intermediate, 2),
          RandomIntegers(group, sizes.intermediate, sizes.hidden, 3)};
}

TEST_F(CudaQuantizedTest, Int8ExpertsHaveTheBitsOfThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Expert expert = RandomExpert(0, sizes);
    const Expert gpu_expert{OnGpu(expert.w1), OnGpu(expert.w2), OnGpu(expert.w3)};
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomMatrix(DType::kBf16, {rows + 2, sizes.hidden}, 4, -1);
      const Tensor gpu_x = OnGpu(x);
      Tensor want_mid(DType::kBf16, {rows + 2, sizes.intermediate});
      Tensor mid = Poison(DType::kBf16, want_mid.shape());
      ASSERT_OK(plain_->GatedUp(x.view(), expert.w1.view(), expert.w3.view(), want_mid.view()));
      ASSERT_OK(
          gpu_->GatedUp(gpu_x.view(), gpu_expert.w1.view(), gpu_expert.w3.view(), mid.view()));
      EXPECT_TRUE(SameBits(OnHost(mid).view(), want_mid.view())) << rows;
      // Two groups; the first row is of none.
      const ExpertGroup groups[] = {expert.Group(1, rows), expert.Group(rows + 1, 1)};
      const ExpertGroup gpu_groups[] = {gpu_expert.Group(1, rows), gpu_expert.Group(rows + 1, 1)};
      Tensor want = Poisoned(DType::kBf16, x.shape());
      Tensor got = Poison(DType::kBf16, x.shape());
      ASSERT_OK(plain_->ExpertFfn(x.view(), groups, want_mid.view(), want.view()));
      ASSERT_OK(gpu_->ExpertFfn(gpu_x.view(), gpu_groups, mid.view(), got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view())) << rows;
    }
  }
}

// backend.h's rows, and the exact sum of each group times its scale, groups ascending in one
// accumulator; then the row's scale.
float Int4InTheGpusOrder(const QuantizedRow& x, const MatrixView& w, int64_t row) {
  const int64_t k = w.dim(1);
  const auto* bytes = w.values.data_as<uint8_t>() + row * k / 2;
  float sum = 0.0f;
  for (int64_t begin = 0; begin < k; begin += w.group_size()) {
    int32_t integer = 0;
    for (int64_t i = begin; i < begin + w.group_size(); ++i) {
      const int nibble = i % 2 == 0 ? bytes[i / 2] & 0xf : bytes[i / 2] >> 4;
      integer += x.values[static_cast<size_t>(i)] * (nibble - 8);
    }
    const int64_t scale = row * w.scales.dim(1) + begin / w.group_size();
    sum = std::fma(static_cast<float>(integer), Bf16ToFloat(w.scales.data_as<Bf16>()[scale]), sum);
  }
  return sum * x.scale;
}

TEST_F(CudaQuantizedTest, Int4IsNearThePlainLoopsAndHasTheBitsOfItsOwnOrder) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const int64_t group : {32, 64}) {
      const int64_t n = sizes.intermediate + 1;
      const Integers w = RandomIntegers(group, n, sizes.hidden, 1);
      const Integers gpu_w = OnGpu(w);
      for (const int64_t rows : RowsUnderTest()) {
        const Tensor x = RandomMatrix(DType::kBf16, {rows, sizes.hidden}, 2, -1);
        Tensor want(DType::kF32, {rows, n});
        Tensor device = Poison(DType::kF32, {rows, n});
        ASSERT_OK(plain_->Linear(x.view(), w.view(), Epilogue::kNone, want.view()));
        ASSERT_OK(gpu_->Linear(OnGpu(x).view(), gpu_w.view(), Epilogue::kNone, device.view()));
        const Tensor got = OnHost(device);
        EXPECT_TRUE(Near(got, want, ProductTolerance(sizes.hidden))) << rows;
        const ScopedFlushDenormals flush;
        for (int64_t row = 0; row < rows; row += 7) {
          const QuantizedRow integers = QuantizeRow(x.view(), row * sizes.hidden, sizes.hidden);
          for (int64_t feature = 0; feature < n; feature += OnRealGpu() ? 61 : 13) {
            ASSERT_EQ(got.data_as<float>()[row * n + feature],
                      Int4InTheGpusOrder(integers, w.view(), feature))
                << "row " << row << " of " << rows << ", feature " << feature;
          }
        }
      }
    }
  }
}

TEST_F(CudaQuantizedTest, Int4ExpertsAreNearThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const int64_t group : {32, 64}) {
      const Expert expert = RandomExpert(group, sizes);
      const Expert gpu_expert{OnGpu(expert.w1), OnGpu(expert.w2), OnGpu(expert.w3)};
      for (const int64_t rows : RowsUnderTest()) {
        const Tensor x = RandomMatrix(DType::kBf16, {rows, sizes.hidden}, 4, -1);
        Tensor want_mid(DType::kBf16, {rows, sizes.intermediate});
        Tensor mid = Poison(DType::kBf16, want_mid.shape());
        Tensor want(DType::kBf16, x.shape());
        Tensor got = Poison(DType::kBf16, x.shape());
        const ExpertGroup whole = expert.Group(0, rows);
        const ExpertGroup gpu_whole = gpu_expert.Group(0, rows);
        ASSERT_OK(plain_->ExpertFfn(x.view(), {&whole, 1}, want_mid.view(), want.view()));
        ASSERT_OK(gpu_->ExpertFfn(OnGpu(x).view(), {&gpu_whole, 1}, mid.view(), got.view()));
        EXPECT_TRUE(Near(OnHost(mid), want_mid, 16 * ProductTolerance(sizes.hidden))) << rows;
        // Elements of mid that round the other way, and with them the rows' integers.
        EXPECT_TRUE(Near(OnHost(got), want, 0.05)) << rows;
      }
    }
  }
}

}  // namespace
}  // namespace m1
