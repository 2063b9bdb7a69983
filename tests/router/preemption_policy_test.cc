#include "router/preemption_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;

absl::Time At(int seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

PreemptionCandidate Running(int64_t id, int32_t priority, int64_t kv_blocks) {
  return {.id = id,
          .priority = priority,
          .head_start = At(1000),
          .arrival_order = id,
          .kv_blocks = kv_blocks,
          .is_being_preempted = false};
}

constexpr Room kNeeded{.slots = 1, .kv_blocks = 4};

TEST(PreemptionPolicyTest, LowestPriorityThenYoungestAndNoMoreThanNeeded) {
  const std::vector<PreemptionCandidate> running = {Running(1, 0, 2), Running(2, 0, 2),
                                                    Running(3, -1, 2), Running(4, 0, 2)};
  EXPECT_THAT(ChooseVictims(1, At(0), kNeeded, {}, running), Optional(ElementsAre(3, 4)));
  EXPECT_THAT(ChooseVictims(1, At(0), kNeeded, {.slots = 0, .kv_blocks = 2}, running),
              Optional(ElementsAre(3)));
}

TEST(PreemptionPolicyTest, EqualAndHigherPrioritiesStay) {
  EXPECT_EQ(ChooseVictims(0, At(0), kNeeded, {}, {Running(1, 0, 9), Running(2, 5, 9)}),
            std::nullopt);
}

TEST(PreemptionPolicyTest, WhatWouldComeBackFirstStays) {
  PreemptionCandidate old = Running(1, 0, 9);
  old.head_start = At(5);
  EXPECT_EQ(ChooseVictims(1, At(5), kNeeded, {}, {old}), std::nullopt);
  EXPECT_THAT(ChooseVictims(1, At(4), kNeeded, {}, {old}), Optional(ElementsAre(1)));
}

TEST(PreemptionPolicyTest, WhatWasAskedForCounts) {
  PreemptionCandidate going = Running(1, 0, 4);
  going.is_being_preempted = true;
  EXPECT_THAT(ChooseVictims(1, At(0), kNeeded, {}, {going, Running(2, 0, 4)}), Optional(IsEmpty()));
  going.kv_blocks = 1;
  EXPECT_THAT(ChooseVictims(1, At(0), kNeeded, {}, {going, Running(2, 0, 4)}),
              Optional(ElementsAre(2)));
}

TEST(PreemptionPolicyTest, NobodyGoesInVain) {
  EXPECT_EQ(ChooseVictims(1, At(0), kNeeded, {}, {Running(1, 0, 1), Running(2, 0, 2)}),
            std::nullopt);
}

}  // namespace
}  // namespace m1
