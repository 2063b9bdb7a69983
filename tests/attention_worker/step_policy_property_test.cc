// StepPolicy under a long random load, as routers bring it: what must hold at every step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "attention_worker/step_policy.h"
#include "tests/support/property.h"

namespace m1 {
namespace {

constexpr int kStepsPerSeed = PropertySteps(125'000);
constexpr int kSeeds = 8;

StepLimits Limits(uint64_t seed) {
  return {.max_sequences = 6,
          .kv_blocks = 14,
          .max_context_tokens = 640,
          .max_step_tokens = seed % 4 == 3 ? 3 : 40,  // 3: too few for all that decode
          .max_replay_tokens = 250,
          .target_itl = absl::Milliseconds(20)};
}

// Lower is more senior.
auto Rank(const SequenceStart& start) { return std::tuple(-start.priority, start.arrival_order); }

// A request as its router knows it.
struct Request {
  SequenceStart start;  // its token_ids are the resume point
  int arrival_step = 0;
  int resume_step = 0;  // while paused
};

class World {
 public:
  World(uint64_t seed, bool with_priorities)
      : random_(seed), with_priorities_(with_priorities), policy_(Limits(seed)) {}

  void Run(int num_steps) {
    for (step_ = 0; step_ < num_steps; ++step_) {
      Arrive();
      StartWaiting();
      Interfere();
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
  }

  // No more arrivals: everything ends.
  void RunDown() {
    for (int i = 0; !requests_.empty(); ++i, ++step_) {
      ASSERT_LT(i, 100'000) << requests_.size() << " sequences never end";
      StartWaiting();
      ResumePaused();
      Step();
    }
    EXPECT_EQ(policy_.num_used_slots(), 0);
    EXPECT_EQ(policy_.num_used_blocks(), 0);
    EXPECT_EQ(policy_.num_waiting(), 0);
    EXPECT_EQ(ended_, arrived_);
  }

  uint64_t hash() const { return decisions_.value(); }
  int64_t num_preempted() const { return num_preempted_; }
  int64_t ended() const { return ended_; }

 private:
  int Draw(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  bool Chance(int one_in) { return Draw(1, one_in) == 1; }

  void Arrive() {
    if (!Chance(40) || requests_.size() > 30) return;
    const int64_t id = ++arrived_;
    SequenceStart start;
    start.sequence_id = id;
    start.prompt_token_count = Chance(3) ? Draw(1, 330) : Draw(1, 40);
    start.token_ids.assign(static_cast<size_t>(start.prompt_token_count), 7);
    start.max_new_tokens = Chance(4) ? Draw(1, 300) : Draw(1, 60);
    start.priority = with_priorities_ ? Draw(-1, 1) : 0;
    start.arrival_order = id;
    requests_[id] = {.start = start, .arrival_step = step_};
    queue_.insert({Rank(start), id});
  }

  // In order, against credits; now and then beyond them, as several routers do together.
  void StartWaiting() {
    while (!queue_.empty()) {
      const int64_t id = queue_.begin()->second;
      SequenceStart& start = requests_[id].start;
      const auto blocks = NumKvBlocks(static_cast<int64_t>(start.token_ids.size())) + 1;
      const bool has_credits =
          policy_.num_grantable_slots() > 0 &&
          policy_.num_grantable_blocks() >= std::min(blocks, policy_.limits().kv_blocks);
      if (!has_credits && !Chance(50)) return;
      queue_.erase(queue_.begin());
      ASSERT_TRUE(policy_.Add({1, id}, start).ok());
    }
  }

  void Interfere() {
    ResumePaused();
    const std::vector<SequenceKey> keys = policy_.Keys();
    if (keys.empty()) return;
    const SequenceKey key = keys[static_cast<size_t>(Draw(0, static_cast<int>(keys.size()) - 1))];
    Sequence& sequence = *policy_.Find(key);
    if (Chance(300)) {
      policy_.Remove(key);
      End(key.sequence_id);
    } else if (Chance(300)) {
      Return(key.sequence_id, sequence.tokens);
      policy_.Remove(key);
    } else if (Chance(100) && sequence.decodes()) {
      sequence.phase = SequencePhase::kPaused;
      requests_[key.sequence_id].resume_step = step_ + Draw(1, 50);
    }
  }

  void ResumePaused() {
    for (const SequenceKey& key : policy_.Keys()) {
      Sequence& sequence = *policy_.Find(key);
      if (sequence.phase == SequencePhase::kPaused &&
          requests_[key.sequence_id].resume_step <= step_) {
        sequence.Resume(0);
      }
    }
  }

  void Step() {
    const std::map<SequenceKey, std::vector<int32_t>> tokens_before = HeldTokens();
    const StepPlan plan = policy_.Plan();
    CheckVictims(tokens_before, plan);
    CheckRows(plan);
    CheckLeases();
    CheckProgress(plan);
    for (const SequenceKey& key : plan.preempted) {
      ++num_preempted_;
      Return(key.sequence_id, tokens_before.at(key));
    }
    for (const PlannedRows& rows : plan.rows) Compute(rows);
    const int64_t num_rows = plan.num_decode_rows + plan.num_prefill_rows;
    policy_.RecordStep(plan, absl::Milliseconds(2) + absl::Microseconds(700 * num_rows));
  }

  std::map<SequenceKey, std::vector<int32_t>> HeldTokens() const {
    std::map<SequenceKey, std::vector<int32_t>> tokens;
    for (const SequenceKey& key : policy_.Keys()) {
      const Sequence& sequence = *const_cast<StepPolicy&>(policy_).Find(key);
      if (sequence.holds_memory()) tokens.emplace(key, sequence.tokens);
    }
    return tokens;
  }

  // The most senior holder stays; a long one goes only when no shorter one is left to go.
  void CheckVictims(const std::map<SequenceKey, std::vector<int32_t>>& held, const StepPlan& plan) {
    if (plan.preempted.empty()) return;
    const auto rank = [&](const SequenceKey& key) {
      return Rank(requests_[key.sequence_id].start);
    };
    std::vector<SequenceKey> holders;
    for (const auto& [key, tokens] : held) holders.push_back(key);
    const auto senior = *std::min_element(
        holders.begin(), holders.end(),
        [&](const SequenceKey& a, const SequenceKey& b) { return rank(a) < rank(b); });
    for (const SequenceKey& victim : plan.preempted) {
      ASSERT_NE(victim.sequence_id, senior.sequence_id);
      std::erase(holders, victim);
      const auto is_long = [&](const SequenceKey& key) {
        return static_cast<int64_t>(held.at(key).size()) > policy_.limits().max_replay_tokens;
      };
      for (const SequenceKey& other : holders) {
        if (other == senior) continue;
        ASSERT_LE(is_long(victim), is_long(other)) << "a long sequence went first";
        if (is_long(victim) != is_long(other)) continue;
        ASSERT_LT(rank(other), rank(victim));
      }
    }
  }

  void CheckRows(const StepPlan& plan) {
    int64_t num_rows = 0;
    std::set<SequenceKey> seen;
    for (const PlannedRows& rows : plan.rows) {
      ASSERT_TRUE(seen.insert(rows.sequence->key).second);
      ASSERT_EQ(rows.sequence->phase, SequencePhase::kResident);
      ASSERT_GE(rows.num_rows, 1);
      ASSERT_LE(rows.num_rows, rows.sequence->num_pending());
      num_rows += rows.num_rows;
      decisions_.Mix(static_cast<uint64_t>(rows.sequence->key.sequence_id));
      decisions_.Mix(static_cast<uint64_t>(rows.num_rows));
    }
    ASSERT_EQ(num_rows, plan.num_decode_rows + plan.num_prefill_rows);
    ASSERT_LE(num_rows, policy_.limits().max_step_tokens);
  }

  void CheckLeases() {
    std::set<int32_t> slots;
    std::set<int32_t> blocks;
    for (const SequenceKey& key : policy_.Keys()) {
      const Sequence& sequence = *policy_.Find(key);
      if (!sequence.holds_memory()) {
        ASSERT_EQ(sequence.blocks.size(), 0);
        continue;
      }
      ASSERT_TRUE(slots.insert(sequence.state_slot()).second);
      for (const int32_t block : sequence.blocks.ids()) ASSERT_TRUE(blocks.insert(block).second);
      ASSERT_GE(sequence.blocks.size(), NumKvBlocks(sequence.num_computed));
    }
    ASSERT_EQ(policy_.num_used_slots(), static_cast<int64_t>(slots.size()));
    ASSERT_EQ(policy_.num_used_blocks(), static_cast<int64_t>(blocks.size()));
  }

  // Whoever is the most senior of those that can run has rows at least every few steps, and of
  // equal priorities each ends in its time.
  void CheckProgress(const StepPlan& plan) {
    const Sequence* senior = nullptr;
    for (const SequenceKey& key : policy_.Keys()) {
      const Sequence* sequence = policy_.Find(key);
      if (sequence->phase == SequencePhase::kPaused) continue;
      if (senior == nullptr || Rank(sequence->start) < Rank(senior->start)) senior = sequence;
    }
    const bool has_rows =
        senior == nullptr || std::any_of(plan.rows.begin(), plan.rows.end(),
                                         [&](const auto& r) { return r.sequence == senior; });
    steps_without_ = has_rows ? 0 : steps_without_ + 1;
    // One that waits may have to wait for others to end.
    ASSERT_LE(steps_without_, 2000);
    for (const SequenceKey& key : policy_.Keys()) {
      const Sequence& sequence = *policy_.Find(key);
      const bool can_decode = sequence.phase == SequencePhase::kResident && sequence.decodes();
      int& steps = decode_steps_without_[key];
      const bool had_rows = std::any_of(plan.rows.begin(), plan.rows.end(),
                                        [&](const auto& r) { return r.sequence == &sequence; });
      steps = had_rows || !can_decode ? 0 : steps + 1;
      ASSERT_LE(steps, policy_.limits().max_sequences) << "decoding does not go round";
    }
    if (with_priorities_) return;
    for (const auto& [id, request] : requests_) ASSERT_LE(step_ - request.arrival_step, 20'000);
  }

  void Compute(const PlannedRows& rows) {
    Sequence& sequence = *rows.sequence;
    sequence.num_computed += rows.num_rows;
    if (sequence.num_pending() > 0) return;
    if (sequence.num_generated() < sequence.start.max_new_tokens) sequence.tokens.push_back(7);
    if (sequence.num_generated() < sequence.start.max_new_tokens) return;
    const int64_t id = sequence.key.sequence_id;
    policy_.Remove(SequenceKey(sequence.key));
    End(id);
  }

  void Return(int64_t id, const std::vector<int32_t>& tokens) {
    requests_[id].start.token_ids = tokens;
    queue_.insert({Rank(requests_[id].start), id});
  }

  void End(int64_t id) {
    ASSERT_EQ(requests_.erase(id), 1U) << id << " ended twice";
    decode_steps_without_.erase({1, id});
    ++ended_;
  }

  std::mt19937_64 random_;
  const bool with_priorities_;
  StepPolicy policy_;
  std::map<int64_t, Request> requests_;  // not ended
  std::set<std::pair<std::tuple<int32_t, int64_t>, int64_t>> queue_;
  int step_ = 0;
  int steps_without_ = 0;  // of the most senior that can run
  std::map<SequenceKey, int> decode_steps_without_;
  int64_t arrived_ = 0;
  int64_t ended_ = 0;
  int64_t num_preempted_ = 0;
  DecisionHash decisions_;
};

TEST(StepPolicyPropertyTest, HoldsUnderRandomLoad) {
  int64_t num_preempted = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    World world(static_cast<uint64_t>(seed), /*with_priorities=*/seed % 2 == 1);
    world.Run(kStepsPerSeed);
    if (HasFatalFailure()) return;
    world.RunDown();
    EXPECT_GT(world.ended(), kStepsPerSeed / 200);
    num_preempted += world.num_preempted();
  }
  EXPECT_GT(num_preempted, kSeeds * kStepsPerSeed / 5000);
}

TEST(StepPolicyPropertyTest, TheSameLoadGivesTheSamePlans) {
  World one(99, /*with_priorities=*/true);
  World two(99, /*with_priorities=*/true);
  one.Run(kStepsPerSeed / 10);
  two.Run(kStepsPerSeed / 10);
  EXPECT_EQ(one.hash(), two.hash());
}

}  // namespace
}  // namespace m1
