#include "common/base/watchdog.h"

#include <gtest/gtest.h>

namespace m1 {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(60);

class WatchdogTest : public ::testing::Test {
 protected:
  FakeClock clock_;
  Watchdog watchdog_{kLimit, &clock_};
  Heartbeat* const heartbeat_ = watchdog_.Add("step loop");
};

TEST_F(WatchdogTest, WhoRestsMayDoSoForever) {
  clock_.Advance(absl::Hours(1000));
  EXPECT_EQ(watchdog_.WhyStuck(), "");
  heartbeat_->Beat();
  heartbeat_->Rest();
  clock_.Advance(absl::Hours(1000));
  EXPECT_EQ(watchdog_.WhyStuck(), "");
}

TEST_F(WatchdogTest, WorkWithoutProgressIsNamed) {
  heartbeat_->Beat();
  clock_.Advance(kLimit);
  EXPECT_EQ(watchdog_.WhyStuck(), "");
  clock_.Advance(absl::Milliseconds(2500));
  EXPECT_EQ(watchdog_.WhyStuck(), "the step loop has made no progress for 1m2s, over 1m");
}

TEST_F(WatchdogTest, ProgressIsEnoughHoweverLongTheWork) {
  for (int i = 0; i < 1000; ++i) {
    heartbeat_->Beat();
    clock_.Advance(kLimit);
    EXPECT_EQ(watchdog_.WhyStuck(), "");
  }
}

TEST_F(WatchdogTest, ItIsAliveAgainOnceItGoesOn) {
  heartbeat_->Beat();
  clock_.Advance(2 * kLimit);
  EXPECT_NE(watchdog_.WhyStuck(), "");
  heartbeat_->Beat();
  EXPECT_EQ(watchdog_.WhyStuck(), "");
}

TEST_F(WatchdogTest, OneOfManyIsEnough) {
  Heartbeat* const other = watchdog_.Add("tick");
  heartbeat_->Beat();
  other->Beat();
  clock_.Advance(kLimit);
  heartbeat_->Beat();
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(watchdog_.WhyStuck(), "the tick has made no progress for 1m1s, over 1m");
}

TEST_F(WatchdogTest, ASpanIsProgress) {
  BeatingTrace trace(heartbeat_, nullptr);
  heartbeat_->Beat();
  clock_.Advance(kLimit);
  trace.Add({.name = "attention"});
  clock_.Advance(kLimit);
  EXPECT_EQ(watchdog_.WhyStuck(), "");
}

TEST(WatchdogWithoutLimitTest, NeverAsks) {
  FakeClock clock;
  Watchdog watchdog(absl::ZeroDuration(), &clock);
  watchdog.Add("step loop")->Beat();
  clock.Advance(absl::Hours(1000));
  EXPECT_EQ(watchdog.WhyStuck(), "");
}

TEST(SteadyClockTest, GoesOn) {
  const SteadyClock clock;
  const absl::Time before = clock.Now();
  EXPECT_GT(before, absl::UnixEpoch());
  EXPECT_GE(clock.Now(), before);
}

}  // namespace
}  // namespace m1
