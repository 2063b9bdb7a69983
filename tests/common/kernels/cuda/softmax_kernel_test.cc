// Softmax attention in the simulator: both ways give, bit for bit, what a plain loop with the same
// products gives, however a step is cut; and they are close to the specification.
#include "common/kernels/cuda/softmax_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/common/kernels/cuda/softmax_testing.h"

namespace m1::cuda {
namespace {

// Around the ends of key blocks and of segments.
const std::vector<SequenceRows> kDecode = {{0, 1, 0},    {0, 1, 62},   {0, 1, 63},
                                           {0, 1, 64},   {0, 1, 1022}, {0, 1, 1023},
                                           {0, 1, 1024}, {0, 1, 1025}, {0, 1, 2100}};

// The bits of the result, and of what the segments give in fp32.
void ExpectModelsBits(SoftmaxCase& c) {
  std::vector<float> want_partials;
  std::vector<float> partials;
  const Tensor want = c.RunModel(&want_partials);
  const Tensor few = c.RunFew(&partials);
  const Tensor many = c.RunMany();
  EXPECT_TRUE(SameBits(few.view(), want.view())) << "few";
  EXPECT_TRUE(SameBits(many.view(), want.view())) << "many";
  EXPECT_EQ(std::memcmp(partials.data(), want_partials.data(), partials.size() * sizeof(float)), 0);
}

// M1: 64 heads over 8; here 16 over 2.
TEST(SoftmaxKernelTest, DecodeOfTheModelsHeads) {
  SoftmaxCase c({16, 2, 128}, {{0, 1, 64}, {0, 1, 1029}});
  ExpectModelsBits(c);
}

TEST(SoftmaxKernelTest, DecodeAtTheEndsOfBlocksAndSegments) {
  SoftmaxCase c({8, 1, 32}, kDecode);
  ExpectModelsBits(c);
}

TEST(SoftmaxKernelTest, HeadsThatShareNothing) {
  SoftmaxCase c({2, 2, 32}, {{0, 1, 1030}, {0, 3, 62}, {0, 10, 5}});
  ExpectModelsBits(c);
}

// Seven heads: a row's queries stand in two tiles.
TEST(SoftmaxKernelTest, HeadsThatFillNoTile) {
  SoftmaxCase c({14, 2, 64}, {{0, 4, 61}, {0, 1, 1024}, {0, 3, 1022}});
  ExpectModelsBits(c);
}

// Twelve queries, of which some see the second segment: two warps, or two blocks.
TEST(SoftmaxKernelTest, QueriesOfATileInDifferentSegments) {
  SoftmaxCase c({2, 1, 32}, {{0, 6, 1021}});
  ExpectModelsBits(c);
}

TEST(SoftmaxKernelTest, PromptOfTheModelsHeads) {
  SoftmaxCase c({8, 1, 128}, {{0, 20, 50}});
  const Tensor want = c.RunModel();
  EXPECT_TRUE(SameBits(c.RunMany().view(), want.view()));
}

// Of the segments the first has by far the largest score, the last, or one between.
TEST(SoftmaxKernelTest, LargestScoreInAnySegment) {
  for (const int64_t largest : {5, 1500, 2050}) {
    SoftmaxCase c({1, 1, 32}, {{0, 1, 2100}});
    for (Bf16& q : Elements<Bf16>(c.q())) q = FloatToBf16(8.0f);
    std::fill_n(c.Key(0, largest, 0), 32, FloatToBf16(4.0f));
    ExpectModelsBits(c);
  }
}

TEST(SoftmaxMergeTest, HasTheBitsOfThePlainLoop) {
  for (const float m : {-200.0f, -3.1f, 0.7f, 150.0f}) {
    for (float l = 1.0f; l < 30.0f; l += 0.37f) {
      SoftmaxTotal total;
      MergeSegment(0, 0.3f, 7.7f, total);
      EXPECT_EQ(total.m, 0.3f);
      EXPECT_EQ(total.l, 7.7f);
      const MergeWeights weights = MergeSegment(1, m, l, total);
      const float max = std::max(m, 0.3f);
      const float a = ExactExp(0.3f - max);
      const float b = ExactExp(m - max);
      EXPECT_EQ(total.m, max);
      EXPECT_EQ(total.l, std::fma(l, b, 7.7f * a));
      EXPECT_EQ(MergedOutput(weights, l, -1.9f), std::fma(l, b, -1.9f * a));
    }
  }
}

// A prompt, a row that decodes and a sequence without rows in one call; several blocks of queries.
TEST(SoftmaxKernelTest, SequencesOfAllSizes) {
  SoftmaxCase c({4, 1, 32}, {{0, 70, 0}, {0, 0, 9}, {0, 1, 130}, {0, 33, 1000}});
  ExpectModelsBits(c);
}

TEST(SoftmaxKernelTest, ChunksOfAPromptChangeNoBit) {
  SoftmaxCase c({4, 1, 32}, {{0, 36, 1000}});
  const Tensor want = c.RunMany();
  EXPECT_TRUE(SameBits(c.RunManyInSteps(17).view(), want.view()));
  EXPECT_TRUE(SameBits(c.RunFewInSteps(1).view(), want.view()));
  EXPECT_TRUE(SameBits(c.RunFewInSteps(5).view(), want.view()));
}

// One rounding to bf16 of the output and some of the weights' may fall the other way: rarely, and
// by no more than that.
TEST(SoftmaxKernelTest, IsCloseToTheSpecification) {
  for (const SoftmaxHeads& heads : {SoftmaxHeads{8, 1, 32}, SoftmaxHeads{4, 2, 128}}) {
    SoftmaxCase c(heads, kDecode);
    const Tensor got = c.RunModel();
    const Tensor want = c.RunReference();
    const std::span<const Bf16> got_bits = Elements<Bf16>(got);
    const std::span<const Bf16> want_bits = Elements<Bf16>(want);
    size_t differ = 0;
    const size_t own = got_bits.size() / (kDecode.size() + 1);  // after nobody's row
    for (size_t i = own; i < got_bits.size(); ++i) {
      const float value = Bf16ToFloat(want_bits[i]);
      ASSERT_NEAR(Bf16ToFloat(got_bits[i]), value, std::fabs(value) / 128 + 1e-4f) << i;
      if (got_bits[i] != want_bits[i]) ++differ;
    }
    EXPECT_LE(differ, got_bits.size() / 100);
  }
}

// Block 0 has negative values, and counts nothing once block 1 is there: o becomes -0 before the
// values -0 of block 1. A row alone ends there; with later rows it meets their keys, masked.
TEST(SoftmaxKernelTest, SignOfZeroDoesNotTellOfMaskedKeys) {
  SoftmaxCase c({1, 1, 32}, {{0, 2, 127}});
  for (Bf16& q : Elements<Bf16>(c.q())) q = FloatToBf16(8.0f);
  for (int64_t p = 0; p < 128; ++p) {
    std::fill_n(c.Key(0, p, 0), 32, FloatToBf16(p < 64 ? -4.0f : 4.0f));
    std::fill_n(c.Value(0, p, 0), 32, p < 64 ? FloatToBf16(-1.0f) : Bf16{0x8000});
  }
  const Tensor together = c.RunMany();
  EXPECT_EQ(Elements<Bf16>(together)[32], Bf16{0});
  EXPECT_TRUE(SameBits(c.RunFew().view(), together.view()));
  EXPECT_TRUE(SameBits(c.RunFewInSteps(1).view(), together.view()));
  EXPECT_TRUE(SameBits(c.RunManyInSteps(1).view(), together.view()));
}

// Scores that are not numbers make the rows that see them NaN, and no others.
TEST(SoftmaxKernelTest, KeysThatAreNotNumbersStayWithTheirRows) {
  SoftmaxCase c({2, 1, 32}, {{0, 4, 62}});
  *c.Key(0, 64, 0) = Bf16{0x7fc0};
  const Tensor want = c.RunReference();
  const Tensor got = c.RunMany();
  EXPECT_TRUE(SameBits(c.RunFew().view(), got.view()));
  for (size_t i = 64; i < Elements<Bf16>(got).size(); ++i) {
    EXPECT_EQ(std::isnan(Bf16ToFloat(Elements<Bf16>(got)[i])),
              std::isnan(Bf16ToFloat(Elements<Bf16>(want)[i])))
        << i;
    EXPECT_EQ(std::isnan(Bf16ToFloat(Elements<Bf16>(got)[i])), i / 64 >= 3);
  }
}

// From the row `first` of the only sequence on each row's own value has one element that is not
// finite, another one in each row. The model knows of no later rows.
void ExpectValuesStayWithTheirRows(const SoftmaxHeads& heads, const SequenceRows& rows,
                                   int64_t first) {
  SoftmaxCase c(heads, {rows});
  for (int64_t row = first; row < rows.num_rows; ++row) {
    for (int64_t kv_head = 0; kv_head < heads.kv_heads; ++kv_head) {
      Bf16* value = c.Value(0, rows.first_position + row, kv_head);
      value[(5 * row + kv_head) % heads.head_dim] = kNotFinite[row % 3];
    }
  }
  const Tensor want = c.RunModel();
  ASSERT_TRUE(SameKinds(want.view(), c.RunReference().view()));
  EXPECT_TRUE(SameBits(c.RunFew().view(), want.view())) << "few";
  EXPECT_TRUE(SameBits(c.RunMany().view(), want.view())) << "many";
}

// M1's eight heads for each of kv fill a tile; fewer leave several rows in one, and seven a row in
// two. Rows at the start of the context, over the border of a block, of a segment, at a block's
// last key and its first.
const SoftmaxHeads kGroups[] = {{8, 1, 128}, {2, 1, 128}, {7, 1, 64}, {3, 1, 64},
                                {4, 2, 64},  {2, 2, 32},  {12, 1, 32}};

TEST(SoftmaxKernelTest, ValuesThatAreNotFiniteStayWithTheirRows) {
  for (const SoftmaxHeads& heads : kGroups) {
    for (const SequenceRows& rows :
         {SequenceRows{0, 6, 0}, {0, 9, 59}, {0, 2, 62}, {0, 3, 64}, {0, 8, 1020}}) {
      SCOPED_TRACE(testing::Message() << heads.heads << " heads of " << heads.head_dim
                                      << ", position " << rows.first_position);
      ExpectValuesStayWithTheirRows(heads, rows, rows.num_rows / 3);
    }
  }
}

// Warps of a prompt of which some see a block whole, some in part and some not at all.
TEST(SoftmaxKernelTest, ValuesThatAreNotFiniteStayWithTheRowsOfAPrompt) {
  for (const int head_dim : {32, 128}) {
    ExpectValuesStayWithTheirRows({1, 1, head_dim}, {0, 140, 20}, 3);
  }
}

// The last row's key and value are not finite anywhere: no other row has another bit.
TEST(SoftmaxKernelTest, ARowThatIsNotFiniteChangesNoOther) {
  for (const SoftmaxHeads& heads : kGroups) {
    for (const Bf16 bad : kNotFinite) {
      SoftmaxCase c(heads, {{0, 7, 60}});
      const Tensor want = c.RunMany();
      for (int64_t kv_head = 0; kv_head < heads.kv_heads; ++kv_head) {
        std::fill_n(c.Key(0, 66, kv_head), heads.head_dim, bad);
        std::fill_n(c.Value(0, 66, kv_head), heads.head_dim, bad);
      }
      const auto bytes = static_cast<size_t>(7 * heads.heads * heads.head_dim) * sizeof(Bf16);
      for (const Tensor& got : {c.RunFew(), c.RunMany()}) {
        EXPECT_EQ(std::memcmp(got.view().data(), want.view().data(), bytes), 0)
            << heads.heads << " heads of " << heads.head_dim << ", " << bad;
        EXPECT_TRUE(std::isnan(Bf16ToFloat(Elements<Bf16>(got).back())));
      }
    }
  }
}

}  // namespace
}  // namespace m1::cuda
