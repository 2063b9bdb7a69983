#include "attention_worker/lane_policy.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

namespace m1 {
namespace {

using Mode = LanePolicy::Mode;

// Runs steps whose time is a function of the lanes; how many went with how many lanes.
std::map<int32_t, int> RunSteps(LanePolicy& policy, int64_t rows, int num_steps,
                                const std::function<absl::Duration(int32_t)>& time) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < num_steps; ++i) {
    const int32_t lanes = policy.NumLanes(rows);
    ++counts[lanes];
    policy.Record(rows, lanes, time(lanes));
  }
  return counts;
}

TEST(LanePolicyTest, FixedModesAskNobody) {
  LanePolicy one(Mode::kOne);
  LanePolicy two(Mode::kTwo);
  EXPECT_EQ(one.NumLanes(100), 1);
  EXPECT_EQ(two.NumLanes(100), 2);
  EXPECT_EQ(two.NumLanes(2), 2);
  EXPECT_EQ(two.NumLanes(1), 1);  // nothing to split
}

TEST(LanePolicyTest, TakesWhatIsFasterAndTriesTheOtherNowAndThen) {
  LanePolicy policy(Mode::kMeasured);
  const auto two_pay = [](int32_t lanes) { return absl::Milliseconds(lanes == 2 ? 6 : 10); };
  RunSteps(policy, 100, 8, two_pay);
  const auto counts = RunSteps(policy, 100, 640, two_pay);
  EXPECT_EQ(counts.at(1), 10);
  EXPECT_EQ(counts.at(2), 630);
}

TEST(LanePolicyTest, TwoMustBeWorthIt) {
  LanePolicy policy(Mode::kMeasured);
  const auto hardly = [](int32_t lanes) { return absl::Microseconds(lanes == 2 ? 97 : 100); };
  RunSteps(policy, 100, 8, hardly);
  EXPECT_EQ(RunSteps(policy, 100, 63, hardly).at(1), 63);
}

TEST(LanePolicyTest, EachSizeForItself) {
  LanePolicy policy(Mode::kMeasured);
  const auto worse = [](int32_t lanes) { return absl::Milliseconds(lanes == 2 ? 20 : 10); };
  const auto better = [](int32_t lanes) { return absl::Milliseconds(lanes == 2 ? 60 : 100); };
  RunSteps(policy, 8, 20, worse);
  RunSteps(policy, 512, 20, better);
  EXPECT_EQ(policy.NumLanes(9), 1);
  EXPECT_EQ(policy.NumLanes(600), 2);
}

TEST(LanePolicyTest, FollowsWhenTimesChange) {
  LanePolicy policy(Mode::kMeasured);
  bool far = false;
  const auto time = [&far](int32_t lanes) {
    return absl::Milliseconds(far ? (lanes == 2 ? 30 : 50) : (lanes == 2 ? 14 : 10));
  };
  RunSteps(policy, 64, 1000, time);
  EXPECT_EQ(policy.NumLanes(64), 1);
  far = true;
  // The stale estimate of two lanes makes them look good at once, and they are.
  RunSteps(policy, 64, 100, time);
  EXPECT_GT(RunSteps(policy, 64, 64, time).at(2), 60);
  far = false;
  RunSteps(policy, 64, 600, time);
  EXPECT_GT(RunSteps(policy, 64, 64, time).at(1), 60);
}

TEST(LanePolicyTest, OneOddStepDoesNotDecide) {
  LanePolicy policy(Mode::kMeasured);
  const auto two_pay = [](int32_t lanes) { return absl::Milliseconds(lanes == 2 ? 6 : 10); };
  RunSteps(policy, 64, 50, two_pay);
  policy.Record(64, 2, absl::Seconds(5));
  EXPECT_EQ(policy.NumLanes(64), 2);
}

}  // namespace
}  // namespace m1
