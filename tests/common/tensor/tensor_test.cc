#include "common/tensor/tensor.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace m1 {
namespace {

TEST(DTypeTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0F), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000U)), 0x3f80);  // tie, even below
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000U)), 0x3f82);  // tie, even above
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001U)), 0x3f81);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(Bf16ToFloat(FloatToBf16(std::numeric_limits<float>::max()))));
}

TEST(TensorTest, IsZeroedAlignedAndSliced) {
  Tensor tensor(DType::kF32, {3, 4});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.view().data()) % 64, 0U);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(tensor.data_as<float>()[i], 0.0F);
  tensor.data_as<float>()[5] = 2.0F;
  const TensorView row = tensor.view()[1];
  EXPECT_EQ(row.shape(), Shape({4}));
  EXPECT_EQ(row.data_as<float>()[1], 2.0F);
  EXPECT_EQ(tensor.view().Rows(1, 2).shape().ToString(), "[2, 4]");
}

TEST(TensorTest, EmptyShapesHaveNoElements) {
  Tensor tensor(DType::kBf16, {0, 7});
  EXPECT_EQ(tensor.view().num_bytes(), 0);
}

}  // namespace
}  // namespace m1
