// What the products of integers add to the index maps of product_geometry_test.cc.
#include "common/kernels/cuda/quant_geometry.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <type_traits>
#include <utility>

#include "common/kernels/cuda/quant_args.h"
#include "common/kernels/operands.h"

namespace m1::cuda {
namespace {

static_assert(kMaxQuantK == kMaxQuantizedK);

template <typename Shape>
class QuantGeometryTest : public testing::Test {};

using Shapes =
    testing::Types<QuantLinearOne<0>, QuantLinearFew<0>, QuantLinearMany<0>, QuantGatedOne<0>,
                   QuantGatedFew<0>, QuantGatedMany<0>, QuantLinearOne<32>, QuantLinearFew<32>,
                   QuantLinearMany<32>, QuantGatedOne<32>, QuantGatedFew<32>, QuantGatedMany<32>,
                   QuantLinearOne<64>, QuantLinearFew<64>, QuantLinearMany<64>, QuantGatedOne<64>,
                   QuantGatedFew<64>, QuantGatedMany<64>>;
TYPED_TEST_SUITE(QuantGeometryTest, Shapes);

TYPED_TEST(QuantGeometryTest, SharedMemoryFitsEveryArchitecture) {
  for (const int capability : {80, 90, 100}) {
    EXPECT_LE(TypeParam::kSharedBytes, MaxSharedBytes(capability));
  }
  EXPECT_EQ(TypeParam::kStageBytes % kSharedRowBytes, 0);  // of ldmatrix's banks
}

TYPED_TEST(QuantGeometryTest, EveryScaleIsCopiedOnceBehindTheRows) {
  std::map<std::pair<int, int>, int> copies;
  std::set<int> offsets;
  for (int thread = 0; thread < TypeParam::kThreads; ++thread) {
    for (int copy = 0; copy < TypeParam::kScaleCopies; ++copy) {
      if constexpr (TypeParam::kGroup != 0) {
        const ScaleQuad quad = CopiedScales<TypeParam>(thread, copy);
        if (quad.row < 0) continue;
        const int offset = ScaleOffset<TypeParam>(quad.row, quad.group);
        EXPECT_EQ(offset % 8, 0);
        EXPECT_GE(offset, TypeParam::kStageRows * kSharedRowBytes);
        EXPECT_LE(offset + 8, TypeParam::kStageBytes);
        offsets.insert(offset);
        for (int i = 0; i < 4; ++i) ++copies[{quad.row, quad.group + i}];
      }
    }
  }
  EXPECT_EQ(static_cast<int>(offsets.size()), TypeParam::kScaleQuads);
  EXPECT_EQ(static_cast<int>(copies.size()), TypeParam::kWeightRows * TypeParam::kSliceGroups);
  for (const auto& [scale, count] : copies) {
    EXPECT_EQ(count, 1);
    EXPECT_LT(scale.first, TypeParam::kWeightRows);
    EXPECT_LT(scale.second, TypeParam::kSliceGroups);
  }
}

// Eight nibbles of every value: (nibble - 8) * 16 in byte i for element 2i, and 2i + 1.
TEST(NibblesTest, AreSixteenTimesTheirNumbers) {
  for (uint32_t start = 0; start < 16; ++start) {
    uint32_t word = 0;
    for (uint32_t element = 0; element < 8; ++element) {
      word |= ((start + 5 * element) % 16) << (4 * element);
    }
    for (uint32_t i = 0; i < 4; ++i) {
      const auto number = [&](uint32_t element) {
        return 16 * (static_cast<int>((start + 5 * element) % 16) - 8);
      };
      EXPECT_EQ(static_cast<int8_t>(EvenNibbles(word) >> (8 * i)), number(2 * i));
      EXPECT_EQ(static_cast<int8_t>(OddNibbles(word) >> (8 * i)), number(2 * i + 1));
    }
  }
}

// Every sum of a group that there can be, 64 * 127 * 8 the largest.
TEST(SumStartTest, ABitPatternPlusASumIsTheSumAsAFloat) {
  for (int32_t sum = -65'024; sum <= 65'024; ++sum) {
    ASSERT_EQ(std::bit_cast<float>(kSumStart + 16 * sum) - kSumStartValue, static_cast<float>(sum));
  }
}

TEST(TakesQuantKTest, SaysWhichRowsTheProductsTake) {
  EXPECT_TRUE(TakesQuantK(0, 0));
  EXPECT_TRUE(TakesQuantK(0, 48));
  EXPECT_FALSE(TakesQuantK(0, 40));
  EXPECT_TRUE(TakesQuantK(0, 1 << 17));
  EXPECT_FALSE(TakesQuantK(0, (1 << 17) + 16));
  EXPECT_TRUE(TakesQuantK(32, 96));
  EXPECT_FALSE(TakesQuantK(64, 96));
  EXPECT_FALSE(TakesQuantK(32, 48));
  EXPECT_FALSE(TakesQuantK(128, 128));
  EXPECT_FALSE(TakesQuantK(0, -16));
}

// The shape is that of the format and of the largest group's rows.
TEST(ForQuantShapeTest, ChoosesByFormatAndRows) {
  QuantProductArgs args;
  args.num_groups = 2;
  args.groups[0].num_rows = 1;
  const auto is_linear = [&]<typename Want>(int group, int rows) {
    args.group_size = group;
    args.groups[1].num_rows = rows;
    return ForQuantLinear(args, []<typename Shape>() { return std::is_same_v<Shape, Want>; });
  };
  EXPECT_TRUE((is_linear.operator()<QuantLinearOne<0>>(0, 8)));
  EXPECT_TRUE((is_linear.operator()<QuantLinearFew<32>>(32, 9)));
  EXPECT_TRUE((is_linear.operator()<QuantLinearMany<64>>(64, 33)));
  EXPECT_TRUE(ForQuantGated(
      args, []<typename Shape>() { return std::is_same_v<Shape, QuantGatedMany<64>>; }));
}

}  // namespace
}  // namespace m1::cuda
