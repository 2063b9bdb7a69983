// The printed bounds: hand-computed parts of the bench checkpoint, and figures known from a machine
// like CI's.
#include "tools/bench/model_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace m1 {
namespace {

constexpr double kRead = 40e9;

ModelConfig BenchConfig() { return LoadModelConfig("models/bench").value(); }

double PartBytes(const std::vector<CostPart>& parts, const std::string& name) {
  for (const CostPart& part : parts) {
    if (part.name == name) return part.bytes;
  }
  ADD_FAILURE() << "no part " << name;
  return 0;
}

CostPart Decode(int64_t streams) {
  return TotalOf(ForwardCost(BenchConfig(), {.num_sequences = streams, .context_each = 128}));
}

double DecodeRate(int64_t streams) {
  return static_cast<double>(streams) * kRead / Decode(streams).bytes;
}

TEST(ModelCostTest, PartsOfOneDecodedToken) {
  const std::vector<CostPart> parts = ForwardCost(BenchConfig(), {.context_each = 127});
  constexpr double kSquare = 1024.0 * 1024.0;
  // 14 lightning layers of q, k, v, gate and out; 2 softmax layers of q, out, and k and v of a
  // quarter each.
  EXPECT_DOUBLE_EQ(PartBytes(parts, "attention"), 2 * (14 * 5 + 2 * 2.5) * kSquare);
  EXPECT_DOUBLE_EQ(PartBytes(parts, "experts"), 2 * 16.0 * 2 * 3 * 1024 * 1536);
  EXPECT_DOUBLE_EQ(PartBytes(parts, "gates"), 4 * 16.0 * 32 * 1024);
  EXPECT_DOUBLE_EQ(PartBytes(parts, "head"), 2 * 32768.0 * 1024);
  // 8 heads of 128 x 128 fp32 read and a 32nd written; 16 rows of k and v.
  EXPECT_DOUBLE_EQ(PartBytes(parts, "states"),
                   14 * (8 * 128 * 128 * 4 * (1 + 1 / 32.0) + 2 * 1024 * 2 * 16.0));
  EXPECT_DOUBLE_EQ(PartBytes(parts, "kv"), 2 * 2 * 256 * 2 * 128.0);
}

TEST(ModelCostTest, IntegersAreAsLargeAsTheCheckpoint) {
  ModelConfig config = BenchConfig();
  const double experts = 16.0 * 2 * 3 * 1024 * 1536;
  config.quantization = {.format = MatrixFormat::kInt8};
  std::vector<CostPart> parts = ForwardCost(config, {.context_each = 127});
  EXPECT_DOUBLE_EQ(PartBytes(parts, "experts"), experts * (1 + 4.0 / 1024));
  EXPECT_DOUBLE_EQ(PartBytes(parts, "head"), 2 * 32768.0 * 1024);
  config.quantization = {.format = MatrixFormat::kInt4, .everything = true, .group_size = 32};
  parts = ForwardCost(config, {.context_each = 127});
  EXPECT_DOUBLE_EQ(PartBytes(parts, "experts"), experts * (0.5 + 2.0 / 32));
  EXPECT_DOUBLE_EQ(PartBytes(parts, "head"), 32768.0 * 1024 * (0.5 + 2.0 / 32));
  EXPECT_DOUBLE_EQ(PartBytes(parts, "gates"), 4 * 16.0 * 32 * 1024);
}

TEST(ModelCostTest, ExpectedExperts) {
  EXPECT_DOUBLE_EQ(ExpectedExperts(32, 2, 1), 2);
  EXPECT_DOUBLE_EQ(ExpectedExperts(32, 2, 2), 32 * (1 - 15.0 * 15 / 256));
  EXPECT_NEAR(ExpectedExperts(32, 2, 10'000), 32, 1e-9);
}

// The known figures count a state as read and written in every step; it is written in one of 32. So
// ours may be higher by that, and by nothing else.
TEST(ModelCostTest, CloseToFiguresKnownFromElsewhere) {
  EXPECT_NEAR(Decode(1).bytes, 543e6, 0.02 * 543e6);
  EXPECT_NEAR(DecodeRate(1), 74, 0.02 * 74);
  EXPECT_NEAR(DecodeRate(8), 139, 0.04 * 139);
  EXPECT_NEAR(DecodeRate(32), 260, 0.06 * 260);
}

TEST(ModelCostTest, PrefillIsBoundByProducts) {
  const CostPart cost = TotalOf(ForwardCost(BenchConfig(), {.rows_each = 2048}));
  // Two cores: 1.1 TFLOP/s of bf16 pairs, half of that in fp32.
  const double pairs = 2048 / BoundSeconds(cost, kRead, 1.1e12, 0.55e12);
  const double fp32 = 2048 / BoundSeconds(cost, kRead, 0.55e12, 0.55e12);
  EXPECT_NEAR(pairs, 2340, 0.06 * 2340);
  EXPECT_NEAR(fp32, 1150, 0.06 * 1150);
  EXPECT_GT(2048 / (cost.bytes / kRead), pairs);
}

TEST(ModelCostTest, BoundIsTheLargerOfBytesAndProducts) {
  const CostPart cost{"x", "", 100, 30, 20};
  EXPECT_DOUBLE_EQ(BoundSeconds(cost, 10, 10, 10), 10);
  EXPECT_DOUBLE_EQ(BoundSeconds(cost, 100, 10, 4), 8);
}

}  // namespace
}  // namespace m1
