#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/kernels/reference/attention_ops.h"
#include "common/kernels/rotary_table.h"
#include "common/tensor/tensor.h"

namespace m1 {
namespace {

TEST(RotaryTest, RotatesTheFirstDimsAndCopiesTheRest) {
  std::array<float, 5> x{1.0f, 2.0f, 3.0f, 4.0f, 5.0f};
  std::array<float, 2> cos{0.5f, 0.0f};
  std::array<float, 2> sin{0.25f, 1.0f};
  std::array<float, 5> out{};
  ASSERT_TRUE(ReferenceRotary({x.data(), DType::kF32, {1, 1, 5}}, {cos.data(), DType::kF32, {1, 2}},
                              {sin.data(), DType::kF32, {1, 2}},
                              {out.data(), DType::kF32, {1, 1, 5}})
                  .ok());
  // a cos - b sin, b cos + a sin, with (a, b) = (1, 3) and (2, 4).
  EXPECT_THAT(out, testing::ElementsAre(-0.25f, -4.0f, 1.75f, 2.0f, 5.0f));
}

TEST(RotaryTest, RefusesATableWiderThanTheHead) {
  std::array<float, 6> x{};
  EXPECT_EQ(ReferenceRotary({x.data(), DType::kF32, {1, 1, 3}}, {x.data(), DType::kF32, {1, 2}},
                            {x.data(), DType::kF32, {1, 2}}, {x.data() + 3, DType::kF32, {1, 1, 3}})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RotaryTableTest, RoundsTheAngleToFp32First) {
  const std::array<int64_t, 2> positions{0, 1000003};
  const std::array<float, 1> inv_freq{0.1f};
  Tensor cos(DType::kF32, {2, 1});
  Tensor sin(DType::kF32, {2, 1});
  FillRotaryTable(positions, inv_freq, cos.view(), sin.view());
  const float angle = 1000003.0f * 0.1f;
  EXPECT_EQ(cos.data_as<float>()[0], 1.0f);
  EXPECT_EQ(sin.data_as<float>()[0], 0.0f);
  EXPECT_EQ(cos.data_as<float>()[1], static_cast<float>(std::cos(static_cast<double>(angle))));
  EXPECT_EQ(sin.data_as<float>()[1], static_cast<float>(std::sin(static_cast<double>(angle))));
}

// cos and sin come from libm: another libm with other last bits would give other answers.
TEST(RotaryTableTest, HasTheBitsOfTheTableThatAnswersWereMadeWith) {
  std::vector<float> inv_freq;
  for (int k = 0; k < 32; ++k) {
    const float exponent = static_cast<float>(2 * k) / 64.0f;
    inv_freq.push_back(1.0f / static_cast<float>(std::pow(1e7, static_cast<double>(exponent))));
  }
  std::vector<int64_t> positions;
  for (int64_t p = 0; p < 10'240'000; p += 9973) positions.push_back(p);
  const auto rows = static_cast<int64_t>(positions.size());
  Tensor cos(DType::kF32, {rows, 32});
  Tensor sin(DType::kF32, {rows, 32});
  FillRotaryTable(positions, inv_freq, cos.view(), sin.view());
  uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a over the words
  for (const Tensor* table : {&cos, &sin}) {
    for (int64_t i = 0; i < rows * 32; ++i) {
      hash ^= std::bit_cast<uint32_t>(table->data_as<float>()[i]);
      hash *= 0x100000001b3U;
    }
  }
  EXPECT_EQ(hash, 2336747384448572095U);
}

TEST(AppendKvTest, WritesAcrossABlockBorder) {
  std::vector<float> k{1, 2, 3};
  std::vector<float> v{4, 5, 6};
  Tensor pool_k(DType::kF32, {3, 1, 64, 1});
  Tensor pool_v(DType::kF32, {3, 1, 64, 1});
  const std::array<int32_t, 2> table{2, 0};
  const PagedSequence sequence{{0, 3, 62}, table};
  ASSERT_TRUE(ReferenceAppendKv({k.data(), DType::kF32, {3, 1, 1}},
                                {v.data(), DType::kF32, {3, 1, 1}}, {&sequence, 1},
                                {pool_k.view(), pool_v.view()})
                  .ok());
  EXPECT_EQ(pool_k.data_as<float>()[2 * 64 + 62], 1.0f);
  EXPECT_EQ(pool_k.data_as<float>()[2 * 64 + 63], 2.0f);
  EXPECT_EQ(pool_k.data_as<float>()[0], 3.0f);
  EXPECT_EQ(pool_v.data_as<float>()[0], 6.0f);
}

}  // namespace
}  // namespace m1
