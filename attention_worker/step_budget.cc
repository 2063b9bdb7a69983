#include "attention_worker/step_budget.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

namespace m1 {
namespace {

constexpr double kMinRows = 16.0;
constexpr double kFirstRows = 64.0;
// Of one step's move; the smaller of the two is the brake on growth.
constexpr double kMostShrink = 0.5;
constexpr double kMostGrowth = 1.25;

}  // namespace

StepBudget::StepBudget(absl::Duration target, int32_t max_rows)
    : target_(target),
      max_rows_(max_rows),
      min_rows_(std::min(kMinRows, std::ceil(max_rows_ / 8))),
      rows_(target == absl::InfiniteDuration() ? max_rows_ : std::min(kFirstRows, max_rows_)) {
  M1_CHECK(target > absl::ZeroDuration() && max_rows >= 1);
}

int64_t StepBudget::PrefillRows(int64_t num_decode_rows) const {
  const auto left = static_cast<int64_t>(max_rows_) - num_decode_rows;
  if (num_decode_rows == 0) return left;
  return std::clamp<int64_t>(static_cast<int64_t>(rows_), 0, std::max<int64_t>(left, 0));
}

void StepBudget::Record(int64_t num_decode_rows, int64_t num_prefill_rows, absl::Duration elapsed) {
  if (num_decode_rows == 0 || num_prefill_rows == 0 || target_ == absl::InfiniteDuration()) return;
  const double ratio = absl::FDivDuration(target_, std::max(elapsed, absl::Nanoseconds(1)));
  // A step that was shorter than allowed says nothing about a longer one, unless it was too slow.
  const bool was_full = num_prefill_rows >= PrefillRows(num_decode_rows);
  if (ratio > 1.0 && !was_full) return;
  // The square root halves what noise does and leaves the point of rest where it is.
  rows_ *= std::clamp(std::sqrt(ratio), kMostShrink, kMostGrowth);
  rows_ = std::clamp(rows_, min_rows_, max_rows_);
}

}  // namespace m1
