// Sequences that share prompts, under a random load, on a model of the memory: what is computed
// must always rest on what was written for it, and nothing shared may be written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "attention_worker/step_policy.h"
#include "tests/support/property.h"

namespace m1 {
namespace {

constexpr int kStepsPerSeed = PropertySteps(60'000);
constexpr int kSeeds = 6;

// What a place holds that depends on all tokens up to and with the last.
uint64_t Extend(uint64_t prefix, int32_t token) {
  return (prefix ^ static_cast<uint64_t>(token)) * 1099511628211ULL + 1;
}

// A slot holds the whole prefix; a row of a block holds the prefix that ends with it.
class FakeMemory {
 public:
  explicit FakeMemory(const StepLimits& limits)
      : slots_(static_cast<size_t>(limits.max_sequences), 0),
        blocks_(static_cast<size_t>(limits.kv_blocks), std::vector<uint64_t>(kKvBlockTokens, 0)) {}

  void Prepare(const SlotPreparation& preparation) {
    slot(preparation.slot) = preparation.from_slot ? slot(*preparation.from_slot) : 0;
    if (preparation.from_block) block(preparation.to_block) = block(*preparation.from_block);
  }
  uint64_t& slot(int32_t id) { return slots_[static_cast<size_t>(id)]; }
  std::vector<uint64_t>& block(int32_t id) { return blocks_[static_cast<size_t>(id)]; }

 private:
  std::vector<uint64_t> slots_;
  std::vector<std::vector<uint64_t>> blocks_;
};

struct Group {
  std::vector<SequenceStart> to_come;
  int num_started = 0;
};

class World {
 public:
  World(uint64_t seed, const StepLimits& limits)
      : random_(seed), policy_(limits), memory_(limits) {}

  void Run(int num_steps) {
    for (int i = 0; i < num_steps; ++i) {
      Arrive();
      StartSome();
      Interfere();
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
    for (int i = 0; !groups_.empty() || !again_.empty() || !policy_.Keys().empty(); ++i) {
      ASSERT_LT(i, 100'000) << "sequences never end";
      StartSome();
      ResumePaused();
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
    Step();
    EXPECT_EQ(policy_.num_kept_prompts(), 0);
    EXPECT_EQ(policy_.num_used_slots(), 0);
    EXPECT_EQ(policy_.num_used_blocks(), 0);
    EXPECT_EQ(policy_.num_prompt_groups(), 0);
  }

  const StepPolicy& policy() const { return policy_; }
  int64_t num_shared_rows() const { return num_shared_rows_; }
  int64_t num_preempted() const { return num_preempted_; }

 private:
  int Draw(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  bool Chance(int one_in) { return Draw(1, one_in) == 1; }

  void Arrive() {
    if (!Chance(50) || groups_.size() > 6) return;
    const int64_t id = ++num_groups_;
    SequenceStart start;
    start.prompt_token_count = Chance(4) ? 64 * Draw(1, 4) + Draw(0, 1) : Draw(1, 300);
    for (int i = 0; i < start.prompt_token_count; ++i) start.token_ids.push_back(Draw(1, 1000));
    if (Chance(5)) start.generated_prompt_token_count = Draw(0, start.prompt_token_count - 1);
    if (Chance(5)) start.max_repetition_run = 40;
    start.priority = Draw(0, 1);
    start.prompt_group = id;
    Group& group = groups_[id];
    const int num_samples = Draw(1, 9);
    for (int i = 0; i < num_samples; ++i) {
      start.sequence_id = ++num_sequences_;
      start.arrival_order = start.sequence_id;
      start.max_new_tokens = start.generated_prompt_token_count + Draw(0, Chance(3) ? 250 : 60);
      start.prompt_logprobs = i == 0 && Chance(5);
      group.to_come.push_back(start);
    }
    std::reverse(group.to_come.begin(), group.to_come.end());
  }

  // Against credits, now and then beyond them.
  void StartSome() {
    while (!again_.empty() && MayStart(again_.back())) {
      SequenceStart& start = again_.back();
      const int64_t group = start.prompt_group;
      const bool is_alone = group == 0 || (!groups_.contains(group) && Chance(2));
      if (is_alone) start.prompt_group = 0;
      ASSERT_TRUE(policy_.Add({1, start.sequence_id}, start).ok());
      again_.pop_back();
      // Released before: begun anew by this start.
      if (!is_alone && !groups_.contains(group)) groups_[group];
    }
    for (auto it = groups_.begin(); it != groups_.end();) {
      Group& group = it->second;
      if (!group.to_come.empty() && MayStart(group.to_come.back())) {
        const SequenceStart start = group.to_come.back();
        group.to_come.pop_back();
        ASSERT_TRUE(policy_.Add({1, start.sequence_id}, start).ok());
      }
      // A router may give up what is left.
      if (!group.to_come.empty() && !Chance(2000)) {
        ++it;
        continue;
      }
      policy_.ReleaseGroup({1, it->first});
      it = groups_.erase(it);
    }
  }

  bool MayStart(const SequenceStart& start) {
    const int64_t num_blocks = std::min(
        NumKvBlocks(static_cast<int64_t>(start.token_ids.size())) + 1, policy_.limits().kv_blocks);
    const bool is_granted =
        policy_.num_grantable_slots() > 0 && policy_.num_grantable_blocks() >= num_blocks;
    return is_granted || (policy_.num_waiting() < 10 && Chance(60));
  }

  void Interfere() {
    ResumePaused();
    const std::vector<SequenceKey> keys = policy_.Keys();
    if (keys.empty() || !Chance(30)) return;
    const SequenceKey key = keys[static_cast<size_t>(Draw(0, static_cast<int>(keys.size()) - 1))];
    Sequence& sequence = *policy_.Find(key);
    if (Chance(3)) {
      policy_.Remove(key);
    } else if (Chance(2)) {
      Return(sequence.start, sequence.tokens);
      policy_.Remove(key);
    } else if (sequence.decodes() && sequence.num_generated() > 0) {
      sequence.phase = SequencePhase::kPaused;
    }
  }

  void ResumePaused() {
    for (const SequenceKey& key : policy_.Keys()) {
      Sequence& sequence = *policy_.Find(key);
      if (sequence.phase == SequencePhase::kPaused && Chance(20)) sequence.Resume(0);
    }
  }

  void Return(SequenceStart start, const std::vector<int32_t>& tokens) {
    start.token_ids = tokens;
    again_.push_back(std::move(start));
  }

  void Step() {
    std::map<SequenceKey, std::pair<SequenceStart, std::vector<int32_t>>> before;
    for (const SequenceKey& key : policy_.Keys()) {
      before[key] = {policy_.Find(key)->start, policy_.Find(key)->tokens};
    }
    const StepPlan plan = policy_.Plan();
    for (const SequenceKey& key : plan.preempted) {
      ++num_preempted_;
      Return(before[key].first, before[key].second);
    }
    for (const SlotPreparation& preparation : plan.preparations) memory_.Prepare(preparation);
    for (const Sequence* sequence : plan.admitted) num_shared_rows_ += sequence->num_computed;
    for (const PlannedRows& rows : plan.rows) Compute(rows);
    if (testing::Test::HasFatalFailure()) return;
    for (const PlannedRows& rows : plan.rows) Advance(rows);
    for (const PromptGroupKey& key : policy_.TakeLostPrompts()) {
      ASSERT_TRUE(groups_.contains(key.prompt_group)) << "word of a group that was released";
    }
    ASSERT_LE(policy_.num_kept_prompts(), std::max(1, policy_.limits().max_sequences / 2));
  }

  void Compute(const PlannedRows& rows) {
    const Sequence& sequence = *rows.sequence;
    const auto ids = sequence.blocks.ids();
    uint64_t prefix = 0;
    for (int64_t i = 0; i < sequence.num_computed + rows.num_rows; ++i) {
      if (i == sequence.num_computed) {
        ASSERT_EQ(memory_.slot(sequence.state_slot()), prefix) << "the state is another's";
      }
      prefix = Extend(prefix, sequence.tokens[static_cast<size_t>(i)]);
      const int32_t block = ids[static_cast<size_t>(i / kKvBlockTokens)];
      uint64_t& row = memory_.block(block)[static_cast<size_t>(i % kKvBlockTokens)];
      if (i < sequence.num_computed) {
        ASSERT_EQ(row, prefix) << "row " << i << " of " << sequence.num_computed;
      } else {
        ASSERT_EQ(policy_.num_block_holders(block), 1) << "a shared block is written";
        row = prefix;
      }
    }
    memory_.slot(sequence.state_slot()) = prefix;
  }

  void Advance(const PlannedRows& rows) {
    Sequence& sequence = *rows.sequence;
    const int64_t first = sequence.num_computed;
    sequence.num_computed += rows.num_rows;
    if (sequence.start.prompt_logprobs) {
      ASSERT_LE(first + 1, std::max<int64_t>(1, sequence.next_prompt_index)) << "a gap in scores";
      sequence.next_prompt_index = std::max(sequence.next_prompt_index, sequence.num_computed + 1);
    }
    if (const auto kept = policy_.KeepPrompt(sequence)) memory_.Prepare(*kept);
    if (sequence.num_pending() > 0) return;
    if (sequence.num_generated() < sequence.start.max_new_tokens) {
      sequence.tokens.push_back(Draw(1, 1000));
      return;
    }
    policy_.Remove(SequenceKey(sequence.key));
  }

  std::mt19937_64 random_;
  StepPolicy policy_;
  FakeMemory memory_;
  std::map<int64_t, Group> groups_;  // not all of which were started
  std::vector<SequenceStart> again_;
  int64_t num_groups_ = 0;
  int64_t num_sequences_ = 0;
  int64_t num_shared_rows_ = 0;
  int64_t num_preempted_ = 0;
};

TEST(PromptGroupsPropertyTest, NothingSharedIsWrittenAndNothingLeaks) {
  int64_t num_shared_rows = 0;
  int64_t num_preempted = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    World world(static_cast<uint64_t>(seed), {.max_sequences = seed % 3 == 2 ? 2 : 7,
                                              .kv_blocks = seed % 2 == 0 ? 12 : 40,
                                              .max_context_tokens = 640,
                                              .max_step_tokens = 100,
                                              .max_replay_tokens = 300,
                                              .target_itl = absl::InfiniteDuration()});
    world.Run(kStepsPerSeed);
    if (HasFatalFailure()) return;
    num_shared_rows += world.num_shared_rows();
    num_preempted += world.num_preempted();
  }
  EXPECT_GT(num_shared_rows, kSeeds * kStepsPerSeed / 10);
  EXPECT_GT(num_preempted, kSeeds * kStepsPerSeed / 5000);
}

// --- By hand ---

class PromptGroupsTest : public testing::Test {
 protected:
  static SequenceStart Start(int64_t id, int32_t num_tokens = 130) {
    SequenceStart start;
    start.sequence_id = id;
    start.token_ids.assign(static_cast<size_t>(num_tokens), 7);
    start.prompt_token_count = num_tokens;
    start.max_new_tokens = 20;
    start.arrival_order = id;
    start.prompt_group = 1;
    return start;
  }
  static SequenceStart Other(int64_t id, int32_t num_tokens = 10) {
    SequenceStart start = Start(id, num_tokens);
    start.prompt_group = 0;
    return start;
  }
  static StepLimits Limits(int32_t max_sequences, int64_t kv_blocks) {
    return {.max_sequences = max_sequences,
            .kv_blocks = kv_blocks,
            .max_context_tokens = 512,
            .max_step_tokens = 512,
            .max_replay_tokens = 512};
  }
  // Rows of the step by sequence.
  static std::map<int64_t, int64_t> Step(StepPolicy& policy) {
    const StepPlan plan = policy.Plan();
    std::map<int64_t, int64_t> rows;
    for (const PlannedRows& planned : plan.rows) {
      Sequence& sequence = *planned.sequence;
      rows[sequence.key.sequence_id] = planned.num_rows;
      sequence.num_computed += planned.num_rows;
      policy.KeepPrompt(sequence);
      if (sequence.num_pending() == 0) sequence.tokens.push_back(9);
    }
    return rows;
  }
  using Rows = std::map<int64_t, int64_t>;
};

TEST_F(PromptGroupsTest, OneComputesThePromptTheOthersBeginAtItsEnd) {
  StepPolicy policy(Limits(8, 40));
  for (int64_t id = 1; id <= 4; ++id) ASSERT_TRUE(policy.Add({1, id}, Start(id)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 129}}));
  EXPECT_EQ(policy.num_kept_prompts(), 1);
  // Only so many copies while others decode.
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 1}, {3, 1}}));
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 1}, {3, 1}, {4, 1}}));
  EXPECT_EQ(policy.num_forks(), 3);
  // Two full blocks once; a copy of the third each, and one more to go on: with the kept one's.
  EXPECT_EQ(policy.num_used_blocks(), 2 + 4 * 2 + 1);
  policy.ReleaseGroup({1, 1});
  Step(policy);
  EXPECT_EQ(policy.num_kept_prompts(), 0);
  EXPECT_EQ(policy.num_used_blocks(), 2 + 4 * 2);
}

TEST_F(PromptGroupsTest, TheLastTakesTheKeptPromptOver) {
  StepPolicy policy(Limits(3, 40));
  for (int64_t id = 1; id <= 3; ++id) ASSERT_TRUE(policy.Add({1, id}, Start(id)).ok());
  policy.ReleaseGroup({1, 1});
  EXPECT_EQ(Step(policy), (Rows{{1, 129}}));
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 1}, {3, 1}}));
  EXPECT_EQ(policy.num_kept_prompts(), 0);
}

TEST_F(PromptGroupsTest, IsKeptUntilTheLastHasBegun) {
  StepPolicy policy(Limits(2, 40));
  for (int64_t id = 1; id <= 3; ++id) ASSERT_TRUE(policy.Add({1, id}, Start(id)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 129}}));
  EXPECT_EQ(Step(policy), (Rows{{1, 1}}));  // the other slot is the kept prompt's
  policy.Remove({1, 1});
  EXPECT_EQ(Step(policy), (Rows{{2, 1}}));
  policy.ReleaseGroup({1, 1});
  EXPECT_EQ(Step(policy), (Rows{{2, 1}, {3, 1}}));
}

TEST_F(PromptGroupsTest, WhoCameLaterWaitsAsLongAsSomebodyRuns) {
  StepPolicy policy(Limits(2, 40));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  Step(policy);
  ASSERT_EQ(policy.num_kept_prompts(), 1);
  EXPECT_EQ(policy.num_grantable_slots(), 0);
  ASSERT_TRUE(policy.Add({1, 2}, Other(2)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 1}}));
  policy.Remove({1, 1});
  EXPECT_EQ(Step(policy), (Rows{{2, 10}}));
  EXPECT_EQ(policy.num_kept_prompts(), 1);
}

TEST_F(PromptGroupsTest, WhoIsSeniorDoesNotWait) {
  StepPolicy policy(Limits(2, 40));
  ASSERT_TRUE(policy.Add({1, 2}, Start(2)).ok());
  Step(policy);
  SequenceStart senior = Other(3);
  senior.priority = 1;
  ASSERT_TRUE(policy.Add({1, 3}, senior).ok());
  EXPECT_EQ(Step(policy), (Rows{{2, 1}, {3, 10}}));
  EXPECT_EQ(policy.num_kept_prompts(), 0);
  EXPECT_EQ(policy.TakeLostPrompts(), (std::vector<PromptGroupKey>{{1, 1}}));
  EXPECT_EQ(policy.TakeLostPrompts(), (std::vector<PromptGroupKey>{}));  // said once
}

TEST_F(PromptGroupsTest, GoesWhenNobodyRunsThatCouldMakeRoom) {
  StepPolicy policy(Limits(2, 6));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  Step(policy);
  policy.Remove({1, 1});
  ASSERT_EQ(policy.num_kept_prompts(), 1);
  EXPECT_EQ(policy.num_grantable_slots(), 2);
  EXPECT_EQ(policy.num_grantable_blocks(), 6);
  ASSERT_TRUE(policy.Add({1, 2}, Other(2, 300)).ok());
  EXPECT_EQ(Step(policy), (Rows{{2, 300}}));
  EXPECT_EQ(policy.num_kept_prompts(), 0);
}

// Sixteen samples on four slots, and always short ones that want theirs.
TEST_F(PromptGroupsTest, ShortOnesDoNotCostThePromptAgain) {
  StepPolicy policy(Limits(4, 60));
  int64_t num_rows = 0;
  int64_t next_other = 1000;
  int64_t next_sample = 1;
  for (int step = 0; step < 2000 && (next_sample <= 16 || policy.Find({1, 16})); ++step) {
    // By turns, as a router with two clients would.
    while (policy.num_grantable_slots() > 0) {
      const bool is_sample = next_sample <= 16 && next_other % 2 == next_sample % 2;
      const int64_t id = is_sample ? next_sample++ : next_other++;
      ASSERT_TRUE(policy.Add({1, id}, is_sample ? Start(id) : Other(id, 10)).ok());
    }
    for (const auto& [id, rows] : Step(policy)) {
      num_rows += id <= 16 ? rows : 0;
      if (policy.Find({1, id})->num_generated() > 20) policy.Remove({1, id});
    }
  }
  EXPECT_EQ(next_sample, 17);
  EXPECT_LE(num_rows, 129 + 16 * 21);
  EXPECT_GT(next_other, 1010);
}

TEST_F(PromptGroupsTest, GroupsKeepHalfOfTheSlotsAtMost) {
  StepPolicy policy(Limits(4, 60));
  for (int64_t id = 1; id <= 4; ++id) {
    SequenceStart start = Start(id);
    start.prompt_group = id;
    ASSERT_TRUE(policy.Add({1, id}, start).ok());
    Step(policy);
    policy.Remove({1, id});
  }
  EXPECT_EQ(policy.num_kept_prompts(), 2);
}

TEST_F(PromptGroupsTest, AReplayBeginsAtTheKeptPrompt) {
  StepPolicy policy(Limits(8, 40));
  SequenceStart replay = Start(2);
  replay.token_ids.insert(replay.token_ids.end(), {5, 6, 7});
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  ASSERT_TRUE(policy.Add({1, 2}, replay).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 129}}));
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 4}}));
}

TEST_F(PromptGroupsTest, OfDifferentClientsOnlyPrioritiesAreCompared) {
  StepPolicy policy(Limits(2, 40));
  ASSERT_TRUE(policy.Add({1, 9}, Start(9)).ok());
  Step(policy);
  ASSERT_TRUE(policy.Add({2, 1}, Other(1)).ok());  // the first of another router
  EXPECT_EQ(Step(policy), (Rows{{9, 1}}));
  EXPECT_EQ(policy.num_kept_prompts(), 1);
}

TEST_F(PromptGroupsTest, AShorterPromptReplacesOneThatIsTooLong) {
  StepPolicy policy(Limits(8, 80));
  const auto scored = [](int64_t id) {
    SequenceStart start = Start(id);
    start.generated_prompt_token_count = 60;
    start.max_new_tokens = 80;
    start.max_repetition_run = 3000;
    return start;
  };
  SequenceStart replay = scored(1);  // its run is broken: what comes before is not counted
  replay.token_ids.push_back(5);
  ASSERT_TRUE(policy.Add({1, 1}, replay).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 129}}));
  ASSERT_TRUE(policy.Add({1, 2}, scored(2)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 2}, {2, 69}}));
  ASSERT_TRUE(policy.Add({1, 3}, scored(3)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 61}, {3, 61}}));
}

TEST_F(PromptGroupsTest, AReleasedGroupMayBeginAnew) {
  StepPolicy policy(Limits(8, 40));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  policy.ReleaseGroup({1, 1});
  Step(policy);
  Step(policy);
  EXPECT_EQ(policy.num_prompt_groups(), 0);
  ASSERT_TRUE(policy.Add({1, 2}, Start(2)).ok());
  Step(policy);
  ASSERT_TRUE(policy.Add({1, 3}, Start(3)).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 1}, {3, 1}}));
}

TEST_F(PromptGroupsTest, GroupsOfWhichNothingIsLeftAreForgotten) {
  StepPolicy policy(Limits(4, 40));
  for (int64_t id = 1; id <= 1000; ++id) {
    SequenceStart start = Start(id, 10);
    start.prompt_group = id;
    ASSERT_TRUE(policy.Add({1, id}, start).ok());
    Step(policy);
    policy.Remove({1, id});
    policy.TakeLostPrompts();
  }
  EXPECT_LE(policy.num_prompt_groups(), 3);
}

TEST_F(PromptGroupsTest, GoesBeforeARunningSequenceIsPreempted) {
  StepPolicy policy(Limits(4, 5));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1, 62)).ok());
  ASSERT_TRUE(policy.Add({1, 2}, Other(2)).ok());
  for (int i = 0; i < 64; ++i) EXPECT_EQ(Step(policy).size(), 2U);
  EXPECT_EQ(policy.num_kept_prompts(), 1);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Step(policy).size(), 2U);
  EXPECT_EQ(policy.num_kept_prompts(), 0);
}

TEST_F(PromptGroupsTest, WithoutTheOneThatComputesAnotherDoes) {
  StepPolicy policy(Limits(8, 40));
  for (int64_t id = 1; id <= 3; ++id) ASSERT_TRUE(policy.Add({1, id}, Start(id)).ok());
  policy.Plan();
  policy.Remove({1, 1});
  EXPECT_EQ(Step(policy), (Rows{{2, 129}}));
  EXPECT_EQ(Step(policy), (Rows{{2, 1}, {3, 1}}));
}

TEST_F(PromptGroupsTest, WhoWantsThePromptScoredComputesIt) {
  StepPolicy policy(Limits(8, 40));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  Step(policy);
  SequenceStart scored = Start(2);
  scored.prompt_logprobs = true;
  ASSERT_TRUE(policy.Add({1, 2}, scored).ok());
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 129}}));
}

TEST_F(PromptGroupsTest, AnotherPromptOfTheSameGroupIsNotMixedUp) {
  StepPolicy policy(Limits(8, 40));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  Step(policy);
  SequenceStart wrong = Start(2);
  wrong.token_ids[5] = 8;
  ASSERT_TRUE(policy.Add({1, 2}, wrong).ok());
  ASSERT_TRUE(policy.Add({2, 3}, Start(3)).ok());  // another client's group 1
  EXPECT_EQ(Step(policy), (Rows{{1, 1}, {2, 129}, {3, 129}}));
}

TEST_F(PromptGroupsTest, ALeavingClientTakesItsKeptPromptsAlong) {
  StepPolicy policy(Limits(8, 40));
  ASSERT_TRUE(policy.Add({1, 1}, Start(1)).ok());
  Step(policy);
  policy.RemoveClient(1);
  EXPECT_EQ(policy.num_kept_prompts(), 0);
  EXPECT_EQ(policy.num_used_slots(), 0);
  EXPECT_EQ(policy.num_used_blocks(), 0);
}

}  // namespace
}  // namespace m1
