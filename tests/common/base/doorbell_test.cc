#include "common/base/doorbell.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace m1 {
namespace {

TEST(DoorbellTest, RingsBetweenLookAndWaitAreNotMissed) {
  DoorbellWords words;
  Doorbell bell(&words);
  const uint32_t seen = bell.count();
  bell.Ring();
  bell.Wait(seen, absl::InfiniteFuture(), absl::ZeroDuration());  // returns
  EXPECT_NE(bell.count(), seen);
}

TEST(DoorbellTest, WaitsEndAtTheDeadline) {
  DoorbellWords words;
  Doorbell bell(&words);
  const absl::Time deadline = absl::Now() + absl::Milliseconds(5);
  while (absl::Now() < deadline) bell.Wait(bell.count(), deadline, Doorbell::kMaxSpin);
  bell.Wait(bell.count(), absl::InfinitePast(), Doorbell::kMaxSpin);
  EXPECT_EQ(words.waiting, 0U);
}

// As when the process that rang was killed before it woke the waiter, or a peer wrote what it
// liked.
TEST(DoorbellTest, ARingWhoseWakeIsLostDelaysTheWaiterOnly) {
  DoorbellWords words;
  std::thread ringer([&words] {
    while (words.waiting.exchange(0) == 0) std::this_thread::yield();
    ++words.count;
  });
  Doorbell bell(&words);
  while (bell.count() == 0) bell.Wait(0, absl::InfiniteFuture(), absl::ZeroDuration());
  ringer.join();
}

// Every item is announced by a ring after it was put down; a missed one would hang the test.
TEST(DoorbellTest, NoRingOfManyThreadsIsMissed) {
  constexpr int kNumThreads = 4;
  constexpr int kNumItems = 5000;
  for (const absl::Duration spin : {absl::ZeroDuration(), absl::Microseconds(5)}) {
    DoorbellWords words;
    Doorbell bell(&words);
    std::atomic<int> items = 0;
    std::vector<std::thread> ringers;
    for (int i = 0; i < kNumThreads; ++i) {
      ringers.emplace_back([&] {
        for (int item = 0; item < kNumItems; ++item) {
          ++items;
          Doorbell(&words).Ring();
          if (item % 16 == 0) std::this_thread::yield();
        }
      });
    }
    int taken = 0;
    while (taken < kNumThreads * kNumItems) {
      const uint32_t seen = bell.count();
      const int found = items.exchange(0);
      taken += found;
      if (found == 0) bell.Wait(seen, absl::InfiniteFuture(), spin);
    }
    for (std::thread& ringer : ringers) ringer.join();
    EXPECT_EQ(taken, kNumThreads * kNumItems);
  }
}

}  // namespace
}  // namespace m1
