#include "attention_worker/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "attention_worker/philox.h"
#include "common/kernels/exact_math.h"

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

std::vector<float> RandomLogits(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0.0F, 3.0F);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = value(random);
  return logits;
}

float LogSumExp(const std::vector<float>& logits, double temperature) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit / temperature);
  return static_cast<float>(std::log(sum));
}

// The definition in double, without shortcuts: which tokens may be drawn, and how likely.
std::vector<double> Reference(const std::vector<float>& logits, const SamplingParams& sampling) {
  std::vector<double> p(logits.size());
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp(static_cast<double>(logits[i]) / sampling.temperature -
                    LogSumExp(logits, sampling.temperature));
  }
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < order.size()) {
    order.resize(static_cast<size_t>(sampling.top_k));
  }
  double total = 0.0;
  for (const size_t i : order) total += p[i];
  double sum = 0.0;
  size_t keep = 0;
  while (keep < order.size() && sum < sampling.top_p * total) sum += p[order[keep++]];
  if (sampling.top_p < 1.0F) order.resize(keep);
  std::vector<double> kept(p.size(), 0.0);
  double mass = 0.0;
  for (const size_t i : order) {
    if (p[i] < static_cast<double>(sampling.min_p) * p[order[0]]) continue;
    kept[i] = p[i];
    mass += p[i];
  }
  for (double& value : kept) value /= mass;
  return kept;
}

TEST(SamplerTest, GreedyTakesTheLowestOfTheLargest) {
  const std::vector<float> logits = {1.0F, 5.0F, -2.0F, 5.0F};
  EXPECT_EQ(SampleToken(logits, LogSumExp(logits, 1.0), {.temperature = 0.0F}, 3), 1);
}

TEST(SamplerTest, FrequenciesAreThoseOfTheDefinition) {
  const ScopedFlushDenormals flush;
  const std::vector<float> logits = RandomLogits(50, 1);
  const std::vector<SamplingParams> cases = {
      {.temperature = 1.0F},
      {.temperature = 1.0F, .top_p = 0.8F},
      {.temperature = 2.5F, .top_k = 7},
      {.temperature = 1.5F, .top_p = 0.9F, .top_k = 20, .min_p = 0.05F},
      {.temperature = 0.3F, .top_p = 0.5F},
      {.temperature = 5.0F, .min_p = 0.3F},
  };
  for (SamplingParams sampling : cases) {
    sampling.seed = 99;
    const float lse = LogSumExp(logits, sampling.temperature);
    const std::vector<double> expected = Reference(logits, sampling);
    constexpr int kDraws = 20000;
    std::vector<double> drawn(logits.size(), 0.0);
    for (int position = 0; position < kDraws; ++position) {
      drawn[static_cast<size_t>(SampleToken(logits, lse, sampling, position))] += 1.0 / kDraws;
    }
    for (size_t i = 0; i < logits.size(); ++i) {
      const double deviation = std::sqrt(expected[i] * (1 - expected[i]) / kDraws);
      EXPECT_NEAR(drawn[i], expected[i], 5 * deviation + 1e-9)
          << i << " T=" << sampling.temperature;
    }
  }
}

// The nucleus of a large vocabulary does not depend on the floors it is sought with.
TEST(SamplerTest, NucleusOfFlatAndPeakedDistributions) {
  const ScopedFlushDenormals flush;
  for (const float scale : {0.0F, 0.001F, 0.3F, 10.0F}) {
    std::vector<float> logits = RandomLogits(5000, 2);
    for (float& logit : logits) logit *= scale;
    const SamplingParams sampling{.temperature = 1.0F, .top_p = 0.95F, .seed = 3};
    const std::vector<double> expected = Reference(logits, sampling);
    const float lse = LogSumExp(logits, 1.0);
    for (int position = 0; position < 500; ++position) {
      const int32_t id = SampleToken(logits, lse, sampling, position);
      EXPECT_GT(expected[static_cast<size_t>(id)], 0.0) << "scale " << scale;
    }
  }
}

TEST(SamplerTest, SeedAndPositionDecideAlone) {
  const std::vector<float> logits = RandomLogits(100, 4);
  const float lse = LogSumExp(logits, 1.0);
  const SamplingParams a{.temperature = 1.0F, .seed = 1};
  const SamplingParams b{.temperature = 1.0F, .seed = 2};
  int differ = 0;
  for (int position = 0; position < 100; ++position) {
    EXPECT_EQ(SampleToken(logits, lse, a, position), SampleToken(logits, lse, a, position));
    differ += SampleToken(logits, lse, a, position) != SampleToken(logits, lse, b, position);
  }
  EXPECT_GT(differ, 50);
}

TEST(SamplerTest, ScoreRanksTiesByIdAndListsCandidates) {
  const std::vector<float> logits = {2.0F, 3.0F, 2.0F, -1.0F};
  const float lse = LogSumExp(logits, 1.0);
  const TokenScore score = ScoreToken(logits, lse, 1.0F, 2, 3);
  EXPECT_EQ(score.rank, 3);
  EXPECT_EQ(score.logprob, 2.0F - lse);
  ASSERT_EQ(score.candidates.size(), 3U);
  EXPECT_EQ(score.candidates[0].id, 1);
  EXPECT_EQ(score.candidates[1].id, 0);
  EXPECT_EQ(score.candidates[2].id, 2);
  EXPECT_EQ(score.candidates[1].logprob, 2.0F - lse);
  EXPECT_EQ(ScoreToken(logits, lse, 1.0F, 1, 0).rank, 1);
  EXPECT_EQ(ScoreToken(logits, lse, 1.0F, 3, 20).candidates.size(), 4U);
}

}  // namespace
}  // namespace m1
