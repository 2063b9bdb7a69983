#include "attention_worker/step_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace m1 {
namespace {

// A machine whose steps take base + cost * rows.
struct Machine {
  absl::Duration base;
  absl::Duration per_row;
  double noise = 0.0;  // of the whole, up to so much more
  std::mt19937_64 random{7};

  absl::Duration Run(int64_t rows) {
    const absl::Duration plain = base + per_row * static_cast<double>(rows);
    return plain * (1.0 + std::uniform_real_distribution<>(0.0, noise)(random));
  }
};

// Steps of 8 decode rows with a prompt that never ends; the times of the last half.
std::vector<absl::Duration> Simulate(StepBudget& budget, Machine& machine, int num_steps) {
  std::vector<absl::Duration> times;
  for (int step = 0; step < num_steps; ++step) {
    const int64_t rows = budget.PrefillRows(8);
    const absl::Duration elapsed = machine.Run(rows);
    budget.Record(8, rows, elapsed);
    if (step >= num_steps / 2) times.push_back(elapsed);
  }
  std::sort(times.begin(), times.end());
  return times;
}

TEST(StepBudgetTest, SettlesAtTheTarget) {
  for (const double per_row_us : {20.0, 150.0, 900.0}) {
    StepBudget budget(absl::Milliseconds(50), 4096);
    Machine machine{.base = absl::Milliseconds(10), .per_row = absl::Microseconds(per_row_us)};
    const auto times = Simulate(budget, machine, 100);
    EXPECT_GT(times.front(), absl::Milliseconds(45)) << per_row_us;
    EXPECT_LT(times.back(), absl::Milliseconds(55)) << per_row_us;
  }
}

TEST(StepBudgetTest, FollowsAMachineThatChanges) {
  StepBudget budget(absl::Milliseconds(50), 4096);
  Machine fast{.base = absl::Milliseconds(5), .per_row = absl::Microseconds(50)};
  Simulate(budget, fast, 100);
  const int64_t before = budget.PrefillRows(8);
  Machine slow{.base = absl::Milliseconds(20), .per_row = absl::Microseconds(400)};
  const auto times = Simulate(budget, slow, 40);
  EXPECT_LT(times.back(), absl::Milliseconds(60));
  EXPECT_LT(budget.PrefillRows(8), before / 5);
  Simulate(budget, fast, 100);
  EXPECT_NEAR(static_cast<double>(budget.PrefillRows(8)), static_cast<double>(before),
              0.1 * static_cast<double>(before));
}

TEST(StepBudgetTest, NoiseMovesItLittle) {
  StepBudget budget(absl::Milliseconds(50), 4096);
  Machine machine{.base = absl::Milliseconds(10), .per_row = absl::Microseconds(100), .noise = 0.6};
  const auto times = Simulate(budget, machine, 2000);
  EXPECT_LT(times[times.size() / 2], absl::Milliseconds(55));
  EXPECT_GT(times[times.size() / 2], absl::Milliseconds(40));
  EXPECT_LT(times[times.size() * 99 / 100], absl::Milliseconds(90));
}

TEST(StepBudgetTest, PrefillGoesOnHoweverSlowDecodingIs) {
  StepBudget budget(absl::Milliseconds(50), 256);
  Machine machine{.base = absl::Milliseconds(400), .per_row = absl::Microseconds(1)};
  Simulate(budget, machine, 50);
  EXPECT_EQ(budget.PrefillRows(8), 16);
  EXPECT_EQ(budget.PrefillRows(250), 6);
  EXPECT_EQ(budget.PrefillRows(256), 0);
  StepBudget tiny(absl::Milliseconds(1), 3);
  tiny.Record(1, 2, absl::Seconds(1));
  tiny.Record(1, 2, absl::Seconds(1));
  EXPECT_EQ(tiny.PrefillRows(1), 1);
}

TEST(StepBudgetTest, WithoutDecodingOrTargetStepsAreFull) {
  StepBudget budget(absl::Milliseconds(1), 256);
  budget.Record(8, 64, absl::Seconds(1));
  EXPECT_EQ(budget.PrefillRows(0), 256);
  StepBudget free(absl::InfiniteDuration(), 256);
  free.Record(8, 248, absl::Seconds(9));
  EXPECT_EQ(free.PrefillRows(8), 248);
}

TEST(StepBudgetTest, ShortStepsTeachOnlyThatTheyWereTooSlow) {
  StepBudget budget(absl::Milliseconds(50), 256);
  const int64_t first = budget.PrefillRows(8);
  for (int i = 0; i < 20; ++i) budget.Record(8, 2, absl::Milliseconds(10));
  for (int i = 0; i < 20; ++i) budget.Record(8, 0, absl::Milliseconds(90));
  EXPECT_EQ(budget.PrefillRows(8), first);
  budget.Record(8, 2, absl::Milliseconds(200));
  EXPECT_LT(budget.PrefillRows(8), first);
}

}  // namespace
}  // namespace m1
