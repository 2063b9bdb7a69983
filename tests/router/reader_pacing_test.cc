#include "router/reader_pacing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "tests/support/property.h"

namespace m1 {
namespace {

constexpr int64_t kHalf = ReaderPacing::kMaxWaitingBytes / 2;

TEST(ReaderPacingTest, ParksAsSamplesBringMoreAndResumesAtHalf) {
  ReaderPacing pacing(2);
  EXPECT_TRUE(pacing.GoesOn(0, 2 * kHalf));
  EXPECT_FALSE(pacing.GoesOn(0, 2 * kHalf + 1));
  EXPECT_FALSE(pacing.GoesOn(1, kHalf + 1)) << "full until half was read";
  EXPECT_TRUE(pacing.TakeResumed(kHalf + 1).empty());
  EXPECT_EQ(pacing.TakeResumed(kHalf), std::vector<int>{0}) << "one at half";
  EXPECT_TRUE(pacing.GoesOn(0, kHalf));
  EXPECT_FALSE(pacing.GoesOn(1, kHalf));
  EXPECT_EQ(pacing.TakeResumed(0), std::vector<int>{1});
}

TEST(ReaderPacingTest, MoreGoOnAsTheBytesGetFewer) {
  ReaderPacing pacing(64);
  for (int i = 0; i < 64; ++i) pacing.GoesOn(i, 2 * kHalf + 1);
  EXPECT_EQ(pacing.TakeResumed(kHalf).size(), 1U);
  EXPECT_EQ(pacing.TakeResumed(kHalf / 2).size(), 31U);
  EXPECT_EQ(pacing.TakeResumed(0).size(), 32U);
}

TEST(ReaderPacingTest, ReplaysArePaidForByNewTokens) {
  ReaderPacing pacing(2);
  pacing.OnTokens(0, 100);
  pacing.OnTokens(1, 50);
  for (int i = 0; i < 2; ++i) pacing.GoesOn(i, 2 * kHalf + 1);
  EXPECT_EQ(pacing.TakeResumed(0), std::vector<int>{0}) << "one always goes on";
  pacing.OnTokens(0, 149);
  EXPECT_TRUE(pacing.TakeResumed(0).empty()) << "299 tokens, 150 replayed";
  pacing.OnTokens(0, 1);
  EXPECT_EQ(pacing.TakeResumed(0), std::vector<int>{1});
}

TEST(ReaderPacingTest, WhoIsFinishedCountsNoMore) {
  ReaderPacing pacing(3);
  for (int i = 0; i < 3; ++i) pacing.GoesOn(i, 2 * kHalf + 1);
  pacing.OnFinished(0);
  EXPECT_EQ(pacing.TakeResumed(kHalf), std::vector<int>{1});
  pacing.OnFinished(1);
  EXPECT_EQ(pacing.TakeResumed(kHalf), std::vector<int>{2});
  pacing.OnFinished(2);
  EXPECT_TRUE(pacing.TakeResumed(0).empty());
}

// Samples on a worker that makes a token of each in a step, and a reader that reads as it likes.
struct Outcome {
  int64_t num_new = 0;
  int64_t num_replayed_beside_others = 0;  // rows
  int num_resumed_alone = 0;
};

Outcome RunToTheEnd(int num_samples, int num_tokens, int64_t token_bytes,
                    const std::function<int64_t()>& bytes_read_in_a_step) {
  ReaderPacing pacing(num_samples);
  std::vector<int> made(static_cast<size_t>(num_samples), 0);
  std::vector<bool> runs(static_cast<size_t>(num_samples), true);
  Outcome outcome;
  int64_t waiting = 0;
  int num_unfinished = num_samples;
  for (int64_t step = 0; num_unfinished > 0; ++step) {
    if (step > 1'000'000) {
      ADD_FAILURE() << num_unfinished << " samples never end";
      return outcome;
    }
    for (size_t i = 0; i < made.size(); ++i) {
      if (!runs[i]) continue;
      ++made[i];
      ++outcome.num_new;
      waiting += token_bytes;
      pacing.OnTokens(static_cast<int>(i), 1);
      runs[i] = made[i] < num_tokens && pacing.GoesOn(static_cast<int>(i), waiting);
      if (made[i] < num_tokens) continue;
      pacing.OnFinished(static_cast<int>(i));
      --num_unfinished;
    }
    waiting = std::max<int64_t>(0, waiting - bytes_read_in_a_step());
    bool is_alone = std::find(runs.begin(), runs.end(), true) == runs.end();
    for (const int i : pacing.TakeResumed(waiting)) {
      runs[static_cast<size_t>(i)] = true;
      if (std::exchange(is_alone, false)) {
        ++outcome.num_resumed_alone;
      } else {
        outcome.num_replayed_beside_others += made[static_cast<size_t>(i)];
      }
    }
  }
  return outcome;
}

TEST(ReaderPacingTest, AFastReaderCostsNothing) {
  const Outcome outcome = RunToTheEnd(64, 200, 600, [] { return 64 * 600; });
  EXPECT_EQ(outcome.num_replayed_beside_others, 0);
  EXPECT_EQ(outcome.num_resumed_alone, 0);
}

TEST(ReaderPacingTest, WhatAReaderCostsIsBounded) {
  std::mt19937 random(11);
  int num_slow = 0;
  for (int round = 0; round < PropertySteps(600); ++round) {
    const int num_samples = 1 + static_cast<int>(random() % 64);
    const int num_tokens = 1 + static_cast<int>(random() % 400);
    const auto token_bytes = static_cast<int64_t>(100 + random() % 5000);
    const int64_t most = 1 + static_cast<int64_t>(random()) % (2 * num_samples * token_bytes);
    const uint64_t reads_one_in = 1 + random() % 300;
    const Outcome outcome = RunToTheEnd(num_samples, num_tokens, token_bytes, [&]() -> int64_t {
      return random() % reads_one_in == 0 ? most * static_cast<int64_t>(reads_one_in) : 0;
    });
    SCOPED_TRACE(testing::Message()
                 << num_samples << " samples of " << num_tokens << " tokens of " << token_bytes
                 << " bytes, one read in " << reads_one_in << " steps, on average " << most);
    EXPECT_EQ(outcome.num_new, int64_t{num_samples} * num_tokens);
    EXPECT_LE(ReaderPacing::kTokensPerReplayedRow * outcome.num_replayed_beside_others,
              outcome.num_new);
    // Each fills half of a buffer, or ends.
    EXPECT_LE(outcome.num_resumed_alone, outcome.num_new * token_bytes / kHalf + num_samples);
    num_slow += outcome.num_replayed_beside_others > 0 ? 1 : 0;
  }
  EXPECT_GT(num_slow, PropertySteps(600) / 20);
}

}  // namespace
}  // namespace m1
