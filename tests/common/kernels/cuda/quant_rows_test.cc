// Rows as integers in the simulator: the bits of the plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/common/kernels/cuda/quant_testing.h"

namespace m1::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

void ExpectSameRows(const IntRows& got, const IntRows& want) {
  EXPECT_EQ(got.values, want.values);
  for (size_t r = 0; r < want.scales.size(); ++r) {
    if (std::isnan(want.scales[r])) {
      EXPECT_TRUE(std::isnan(got.scales[r])) << "row " << r;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(got.scales[r]), std::bit_cast<uint32_t>(want.scales[r]))
          << "row " << r;
    }
  }
}

template <typename Act>
class QuantizeRowsTest : public testing::Test {
 protected:
  static constexpr DType kType = sizeof(Act) == sizeof(Bf16) ? DType::kBf16 : DType::kF32;

  void ExpectEqual(ConstTensorView x) {
    const std::vector<QuantizedRow> rows = PlainRows(x);
    ExpectSameRows(QuantizeInSimulator<Act>(x, QuantOrder::kPlain),
                   RowsInOrder(rows, QuantOrder::kPlain));
    if (x.dim(1) % 32 != 0) return;
    ExpectSameRows(QuantizeInSimulator<Act>(x, QuantOrder::kEvenOdd),
                   RowsInOrder(rows, QuantOrder::kEvenOdd));
  }
};

using ActTypes = testing::Types<float, Bf16>;
TYPED_TEST_SUITE(QuantizeRowsTest, ActTypes);

TYPED_TEST(QuantizeRowsTest, EqualsThePlainLoopsForAllLengths) {
  RandomTensors random(1, Spice::kSubnormals);
  for (const int64_t k : {16, 32, 48, 64, 80, 256, 2048, 2080, 6144}) {
    const Tensor x = random.Make(this->kType, {3, k});
    this->ExpectEqual(x.view());
  }
}

// The largest element at every place, since each thread finds its own first.
TYPED_TEST(QuantizeRowsTest, FindsTheLargestElementWhereverItIs) {
  constexpr int64_t kK = 2112;  // more than one unit for some threads
  RandomTensors random(2);
  Tensor x = random.Make(this->kType, {12, kK});
  for (int64_t r = 0; r < 12; ++r) {
    StoreAct(x.view(), r * kK + (r * 191 + 7) % kK, r % 2 == 0 ? 3.0f : -3.0f);
  }
  this->ExpectEqual(x.view());
}

TYPED_TEST(QuantizeRowsTest, RowsThatHaveNoScale) {
  constexpr int64_t kK = 64;
  RandomTensors random(3);
  Tensor x = random.Make(this->kType, {8, kK});
  StoreAct(x.view(), 0 * kK + 5, kInf);
  StoreAct(x.view(), 1 * kK + 63, kNaN);
  StoreAct(x.view(), 2 * kK, -kInf);
  for (int64_t i = 0; i < kK; ++i) {
    StoreAct(x.view(), 3 * kK + i, i % 2 == 0 ? 0.0f : -0.0f);
    StoreAct(x.view(), 4 * kK + i, 1e-40f);
    StoreAct(x.view(), 5 * kK + i, i % 2 == 0 ? 0x1p-100f : -0x1p-101f);
    StoreAct(x.view(), 6 * kK + i, 0x1.fep-101f);
    StoreAct(x.view(), 7 * kK + i, i % 2 == 0 ? 0x1.fep127f : -0x1p127f);
  }
  this->ExpectEqual(x.view());
  const IntRows rows = QuantizeInSimulator<TypeParam>(x.view(), QuantOrder::kPlain);
  EXPECT_TRUE(std::isnan(rows.scales[0]) && std::isnan(rows.scales[1]) &&
              std::isnan(rows.scales[2]));
  EXPECT_EQ(rows.scales[3], 0.0f);
  EXPECT_EQ(rows.scales[4], 0.0f);
  EXPECT_GT(rows.scales[5], 0.0f);
  EXPECT_EQ(rows.scales[6], 0.0f);
  EXPECT_TRUE(std::isfinite(rows.scales[7]));
  EXPECT_EQ(rows.values[0], 0);  // of a row with infinity
}

// Halves between two integers: x in steps of a / 254.
TYPED_TEST(QuantizeRowsTest, TiesRoundToEven) {
  Tensor x(this->kType, {1, 256});
  for (int64_t i = 0; i < 256; ++i) StoreAct(x.view(), i, static_cast<float>(i - 127) * 0.5f);
  StoreAct(x.view(), 0, 127.0f);
  this->ExpectEqual(x.view());
}

}  // namespace
}  // namespace m1::cuda
