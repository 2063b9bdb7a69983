#include "attention_worker/step_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "common/kernels/backend.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

StepLimits Limits() {
  return {.max_sequences = 4,
          .kv_blocks = 16,
          .max_context_tokens = 1024,
          .max_step_tokens = 100,
          .max_replay_tokens = 1000};
}

SequenceStart Start(int64_t id, int64_t prompt_tokens, int32_t max_new_tokens = 10,
                    int32_t priority = 0) {
  SequenceStart start;
  start.sequence_id = id;
  start.token_ids.assign(static_cast<size_t>(prompt_tokens), 7);
  start.prompt_token_count = static_cast<int32_t>(prompt_tokens);
  start.max_new_tokens = max_new_tokens;
  start.priority = priority;
  start.arrival_order = id;
  return start;
}

absl::Status Add(StepPolicy& policy, SequenceStart start) {
  const SequenceKey key{1, start.sequence_id};
  return policy.Add(key, std::move(start));
}

// Computes the planned rows; a sequence whose tokens are all computed gets one more.
void Advance(const StepPlan& plan) {
  for (const PlannedRows& rows : plan.rows) {
    rows.sequence->num_computed += rows.num_rows;
    if (rows.sequence->num_pending() == 0) rows.sequence->tokens.push_back(7);
  }
}

std::vector<std::pair<int64_t, int64_t>> RowsById(const StepPlan& plan) {
  std::vector<std::pair<int64_t, int64_t>> rows;
  for (const PlannedRows& planned : plan.rows) {
    rows.emplace_back(planned.sequence->key.sequence_id, planned.num_rows);
  }
  return rows;
}

TEST(StepPolicyTest, PrefillsInOrderUnderTheBudget) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 130)).ok());
  ASSERT_TRUE(Add(policy, Start(2, 50)).ok());
  StepPlan plan = policy.Plan();
  EXPECT_THAT(RowsById(plan), ElementsAre(std::pair(1, 50), std::pair(2, 50)));
  Advance(plan);
  plan = policy.Plan();
  EXPECT_THAT(RowsById(plan), ElementsAre(std::pair(2, 1), std::pair(1, 80)));
  EXPECT_EQ(plan.num_decode_rows, 1);
}

TEST(StepPolicyTest, TheOldestPromptHasHalfTheShortestTheRest) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 300)).ok());
  ASSERT_TRUE(Add(policy, Start(2, 200)).ok());
  ASSERT_TRUE(Add(policy, Start(3, 20)).ok());
  ASSERT_TRUE(Add(policy, Start(4, 60, 10, /*priority=*/1)).ok());
  EXPECT_THAT(RowsById(policy.Plan()),
              ElementsAre(std::pair(4, 60), std::pair(1, 20), std::pair(3, 20)));
}

TEST(StepPolicyTest, ShortPromptsLeaveTheirShareToTheOldest) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 300)).ok());
  ASSERT_TRUE(Add(policy, Start(2, 5)).ok());
  EXPECT_THAT(RowsById(policy.Plan()), ElementsAre(std::pair(1, 95), std::pair(2, 5)));
}

TEST(StepPolicyTest, PrefillKeepsToTheTargetWhileOthersDecode) {
  StepLimits limits = Limits();
  limits.target_itl = absl::Milliseconds(10);
  StepPolicy policy(limits);
  ASSERT_TRUE(Add(policy, Start(1, 3, 900)).ok());
  Advance(policy.Plan());
  ASSERT_TRUE(Add(policy, Start(2, 500)).ok());
  for (int step = 0; step < 8; ++step) {
    const StepPlan plan = policy.Plan();
    policy.RecordStep(plan, absl::Milliseconds(plan.num_prefill_rows));
    Advance(plan);
  }
  EXPECT_THAT(RowsById(policy.Plan()), ElementsAre(std::pair(1, 1), std::pair(2, 13)));
}

TEST(StepPolicyTest, DecodeRowsComeFirst) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 3)).ok());
  Advance(policy.Plan());
  ASSERT_TRUE(Add(policy, Start(2, 150, 10, /*priority=*/5)).ok());
  const StepPlan plan = policy.Plan();
  EXPECT_THAT(RowsById(plan), ElementsAre(std::pair(1, 1), std::pair(2, 99)));
  EXPECT_EQ(plan.num_decode_rows, 1);
  EXPECT_EQ(plan.num_prefill_rows, 99);
}

TEST(StepPolicyTest, ShortBudgetGoesRound) {
  StepLimits limits = Limits();
  limits.max_step_tokens = 2;
  StepPolicy policy(limits);
  for (int64_t id = 1; id <= 4; ++id) ASSERT_TRUE(Add(policy, Start(id, 1, 60)).ok());
  for (int step = 0; step < 10; ++step) Advance(policy.Plan());
  ASSERT_GT(policy.Find({1, 4})->num_computed, 0) << "decoding starves prefill";
  std::map<int64_t, int> count;
  for (int step = 0; step < 20; ++step) {
    const StepPlan plan = policy.Plan();
    for (const auto& [id, rows] : RowsById(plan)) count[id] += 1;
    Advance(plan);
  }
  for (int64_t id = 1; id <= 4; ++id) EXPECT_EQ(count[id], 10) << id;
}

TEST(StepPolicyTest, AdmissionLeasesPromptAndOneBlockMore) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 65, 900)).ok());
  EXPECT_EQ(policy.num_grantable_blocks(), 13);
  EXPECT_EQ(policy.num_grantable_slots(), 3);
  policy.Plan();
  EXPECT_EQ(policy.num_used_blocks(), 3);
  EXPECT_EQ(policy.num_used_slots(), 1);
  policy.Remove({1, 1});
  EXPECT_EQ(policy.num_used_blocks(), 0);
  EXPECT_EQ(policy.num_used_slots(), 0);
}

TEST(StepPolicyTest, WaitsForASlotInOrderOfPriority) {
  StepLimits limits = Limits();
  limits.max_sequences = 1;
  StepPolicy policy(limits);
  ASSERT_TRUE(Add(policy, Start(1, 5)).ok());
  Advance(policy.Plan());
  ASSERT_TRUE(Add(policy, Start(2, 5)).ok());
  ASSERT_TRUE(Add(policy, Start(3, 5, 10, /*priority=*/1)).ok());
  EXPECT_EQ(policy.num_waiting(), 2);
  EXPECT_EQ(policy.num_grantable_slots(), 0);
  EXPECT_THAT(RowsById(policy.Plan()), ElementsAre(std::pair(1, 1)));
  policy.Remove({1, 1});
  EXPECT_THAT(RowsById(policy.Plan()), ElementsAre(std::pair(3, 5)));
}

TEST(StepPolicyTest, RefusesWhatNeverFits) {
  StepPolicy policy(Limits());
  EXPECT_THAT(Add(policy, Start(1, 1000, 25)).message(), HasSubstr("context of 1024"));
  SequenceStart no_prompt = Start(1, 4);
  no_prompt.prompt_token_count = 0;
  EXPECT_THAT(Add(policy, no_prompt).message(), HasSubstr("prompt_token_count 0 of 4"));
  StepLimits limits = Limits();
  limits.kv_blocks = 2;
  StepPolicy small(limits);
  EXPECT_THAT(Add(small, Start(1, 100, 29)).message(), HasSubstr("needs 3 KV blocks"));
  ASSERT_TRUE(Add(small, Start(1, 100, 28)).ok());
  EXPECT_EQ(Add(small, Start(1, 3)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(RowsById(small.Plan()), ElementsAre(std::pair(1, 100)));
}

TEST(StepPolicyTest, BlocksRunOutYoungestOfLowestPriorityGoes) {
  StepLimits limits = Limits();
  limits.kv_blocks = 6;
  StepPolicy policy(limits);
  ASSERT_TRUE(Add(policy, Start(1, 10, 300)).ok());
  ASSERT_TRUE(Add(policy, Start(2, 10, 300, /*priority=*/1)).ok());
  ASSERT_TRUE(Add(policy, Start(3, 10, 300)).ok());
  std::vector<int64_t> preempted;
  for (int step = 0; step < 360; ++step) {
    const StepPlan plan = policy.Plan();
    for (const SequenceKey& key : plan.preempted) preempted.push_back(key.sequence_id);
    Advance(plan);
    for (const int64_t id : {1, 2, 3}) {
      Sequence* sequence = policy.Find({1, id});
      if (sequence != nullptr && sequence->num_generated() >= 300) policy.Remove({1, id});
    }
  }
  // 3 needs its third block first in vain; then 1 goes for 2.
  EXPECT_THAT(preempted, ElementsAre(3, 1));
}

TEST(StepPolicyTest, LongSequencesAreReplayedLast) {
  StepLimits limits = Limits();
  limits.kv_blocks = 8;
  limits.max_replay_tokens = 140;
  StepPolicy policy(limits);
  ASSERT_TRUE(Add(policy, Start(1, 10, 400)).ok());
  ASSERT_TRUE(Add(policy, Start(2, 10, 400)).ok());
  ASSERT_TRUE(Add(policy, Start(3, 150, 300)).ok());  // the youngest, but too long
  std::vector<int64_t> preempted;
  for (int step = 0; step < 500 && preempted.empty(); ++step) {
    const StepPlan plan = policy.Plan();
    for (const SequenceKey& key : plan.preempted) preempted.push_back(key.sequence_id);
    Advance(plan);
  }
  EXPECT_THAT(preempted, ElementsAre(2));
}

TEST(StepPolicyTest, PausedSequencesKeepMemoryButDoNotRun) {
  StepPolicy policy(Limits());
  ASSERT_TRUE(Add(policy, Start(1, 5)).ok());
  Advance(policy.Plan());
  Sequence* sequence = policy.Find({1, 1});
  sequence->phase = SequencePhase::kPaused;
  EXPECT_THAT(policy.Plan().rows, IsEmpty());
  EXPECT_EQ(policy.num_used_slots(), 1);
  sequence->Resume(0);
  EXPECT_THAT(RowsById(policy.Plan()), ElementsAre(std::pair(1, 1)));
}

// Random arrivals and departures: budgets hold, no block is leased twice, nobody starves, all
// memory comes back.
TEST(StepPolicyTest, InvariantsUnderRandomLoad) {
  StepLimits limits = Limits();
  limits.kv_blocks = 20;
  limits.max_step_tokens = 17;
  std::mt19937 random(5);
  StepPolicy policy(limits);
  int64_t next_id = 1;
  int finished = 0;
  for (int step = 0; step < 20000 && finished < 200; ++step) {
    if (random() % 8 == 0 && policy.num_grantable_slots() > 0) {
      const auto prompt_tokens = static_cast<int64_t>(1 + random() % 300);
      const auto max_new_tokens = static_cast<int32_t>(1 + random() % 200);
      const auto priority = static_cast<int32_t>(random() % 3);
      ASSERT_TRUE(Add(policy, Start(next_id++, prompt_tokens, max_new_tokens, priority)).ok());
    }
    const StepPlan plan = policy.Plan();
    EXPECT_LE(plan.num_decode_rows + plan.num_prefill_rows, limits.max_step_tokens);
    std::set<int32_t> blocks;
    std::set<int32_t> slots;
    for (const SequenceKey& key : policy.Keys()) {
      const Sequence& sequence = *policy.Find(key);
      if (!sequence.holds_memory()) continue;
      EXPECT_TRUE(slots.insert(sequence.state_slot()).second);
      for (const int32_t block : sequence.blocks.ids()) EXPECT_TRUE(blocks.insert(block).second);
      EXPECT_GE(sequence.blocks.size() * kKvBlockTokens, sequence.num_tokens());
    }
    Advance(plan);
    for (const SequenceKey& key : policy.Keys()) {
      const Sequence& sequence = *policy.Find(key);
      if (sequence.num_generated() < sequence.start.max_new_tokens) continue;
      policy.Remove(key);
      ++finished;
    }
  }
  EXPECT_EQ(finished, 200);
  for (const SequenceKey& key : policy.Keys()) policy.Remove(key);
  EXPECT_EQ(policy.num_used_blocks(), 0);
  EXPECT_EQ(policy.num_used_slots(), 0);
}

}  // namespace
}  // namespace m1
