#include "attention_worker/lane_policy.h"

#include <algorithm>
#include <bit>

namespace m1 {
namespace {

// Steps of each kind before one is chosen.
constexpr int64_t kFirstSteps = 4;
// From then on one step of so many is of the other kind, in case things have changed.
constexpr int64_t kStepsBetweenTrials = 64;
// What two must save to be chosen.
constexpr double kLeastGain = 0.05;
// Of a new measurement; more of what is measured rarely. One that is far off counts as this much
// off.
constexpr double kWeight = 0.2;
constexpr double kTrialWeight = 0.5;
constexpr double kMostOff = 2.0;

}  // namespace

LanePolicy::Size& LanePolicy::SizeOf(int64_t num_rows) {
  const auto log2 = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(num_rows))) - 1;
  return sizes_[std::min(log2, sizes_.size() - 1)];
}

int32_t LanePolicy::NumLanes(int64_t num_rows) {
  if (num_rows < 2 || mode_ == Mode::kOne) return 1;
  if (mode_ == Mode::kTwo) return 2;
  Size& size = SizeOf(num_rows);
  const auto& [one, two] = size.by_lanes;
  if (one.num_steps < kFirstSteps) return 1;
  if (two.num_steps < kFirstSteps) return 2;
  const bool two_pay = two.seconds_per_row < (1.0 - kLeastGain) * one.seconds_per_row;
  size.chosen = two_pay ? 2 : 1;
  const bool is_trial = ++size.num_choices % kStepsBetweenTrials == 0;
  return is_trial ? 3 - size.chosen : size.chosen;
}

void LanePolicy::Record(int64_t num_rows, int32_t num_lanes, absl::Duration elapsed) {
  if (num_rows < 2) return;
  Size& size = SizeOf(num_rows);
  Estimate& estimate = size.by_lanes[num_lanes > 1 ? 1 : 0];
  const double measured = absl::ToDoubleSeconds(elapsed) / static_cast<double>(num_rows);
  double& known = estimate.seconds_per_row;
  if (estimate.num_steps++ == 0) {
    known = measured;
  } else {
    const double weight = num_lanes == size.chosen ? kWeight : kTrialWeight;
    known += weight * (std::clamp(measured, known / kMostOff, known * kMostOff) - known);
  }
}

}  // namespace m1
