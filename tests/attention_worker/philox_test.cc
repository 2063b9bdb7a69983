#include "attention_worker/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace m1 {
namespace {

using ::testing::ElementsAre;

// Known answers published with the generator (Random123, kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  EXPECT_THAT(Philox4x32({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
              ElementsAre(0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU));
  EXPECT_THAT(
      Philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}),
      ElementsAre(0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST(PhiloxTest, UniformsFillTheirRangeEvenly) {
  constexpr int kBins = 16;
  constexpr int kNumbers = 16000;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    std::vector<int> bins(kBins);
    for (uint64_t position = 0; position < kNumbers; ++position) {
      const double uniform = PhiloxUniform(seed, position);
      ASSERT_GE(uniform, 0.0);
      ASSERT_LT(uniform, 1.0);
      ++bins[static_cast<size_t>(uniform * kBins)];
    }
    for (const int count : bins) EXPECT_NEAR(count, kNumbers / kBins, 160);
  }
}

TEST(PhiloxTest, SeedsAndPositionsBothCount) {
  EXPECT_NE(PhiloxUniform(1, 5), PhiloxUniform(2, 5));
  EXPECT_NE(PhiloxUniform(1, 5), PhiloxUniform(1, 6));
  EXPECT_NE(PhiloxUniform(1, 5), PhiloxUniform(1, 5 + (uint64_t{1} << 32)));
  EXPECT_NE(PhiloxUniform(1, 5), PhiloxUniform(1 + (uint64_t{1} << 32), 5));
}

}  // namespace
}  // namespace m1
