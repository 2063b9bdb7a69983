#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/match.h"
#include "absl/time/clock.h"

#include "common/base/watchdog.h"
#include "router/grpc_router.h"
#include "tests/router/router_fixture.h"
#include "tests/support/eventually.h"

namespace m1 {
namespace {

constexpr absl::Duration kLimit = absl::Minutes(5);
constexpr absl::Duration kSomeTicks = absl::Milliseconds(500);

// Whoever hears of readiness is called with the dispatcher's lock held: while it does not return,
// the router is as after a deadlock.
TEST(RouterLivenessTest, ASchedulerWhoseLockIsHeldIsKnown) {
  FakeClock clock;
  Watchdog watchdog(kLimit, &clock);
  std::atomic<bool> blocks = true;
  std::atomic<bool> is_blocked = false;
  FakeAttentionWorker worker(FakeWorkerOptions{});
  RouterOptions options;
  options.model_directory = kTinyModel;
  options.attention_workers = {worker.address()};
  auto vocabulary = Vocabulary::Load(kTinyModel);
  ASSERT_TRUE(vocabulary.ok());
  RouterSurroundings surroundings;
  surroundings.watchdog = &watchdog;
  surroundings.on_serving = [&](bool serving) {
    while (serving && blocks) {
      is_blocked = true;
      absl::SleepFor(absl::Milliseconds(1));
    }
  };
  Router router(options, *std::move(vocabulary), surroundings);
  EXPECT_EQ(watchdog.WhyStuck(), "");
  ASSERT_TRUE(router.Serve({}).ok());
  EXPECT_TRUE(Eventually([&] { return is_blocked.load(); }));
  EXPECT_EQ(watchdog.WhyStuck(), "");
  EXPECT_TRUE(Eventually([&] {
    clock.Advance(kLimit + absl::Seconds(1));
    absl::SleepFor(kSomeTicks);  // one that ticks makes progress meanwhile
    return absl::StartsWith(watchdog.WhyStuck(), "the scheduler has made no progress for ");
  }));
  blocks = false;
  EXPECT_TRUE(Eventually([&] { return watchdog.WhyStuck().empty(); }));
  clock.Advance(kLimit + absl::Seconds(1));  // it ticks without work, too
  EXPECT_TRUE(Eventually([&] { return watchdog.WhyStuck().empty(); }));
}

}  // namespace
}  // namespace m1
