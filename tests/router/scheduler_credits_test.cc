// A worker is never given more than it granted, however late its word is.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;

TEST(CreditLedgerTest, BlocksToStartAreOneMoreThanTheTokensNeed) {
  EXPECT_EQ(KvBlocksToStart(1, 10), 2);
  EXPECT_EQ(KvBlocksToStart(64, 10), 2);
  EXPECT_EQ(KvBlocksToStart(65, 10), 3);
  EXPECT_EQ(KvBlocksToStart(640, 10), 10);
}

TEST_F(SchedulerTest, SubtractsStartsThatTheWorkerHasNotCounted) {
  Make(1);
  Welcome(0, /*slots=*/2);
  for (int i = 0; i < 4; ++i) Submit();
  ASSERT_EQ(commands_.starts.size(), 2U);
  // Credits from before the second start: one slot is left, and that start takes it.
  WorkerEvents events;
  events.credits = {.handled_start_count = 1, .state_slots = 1, .kv_blocks = 50, .ready = true};
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(commands_.starts.size(), 2U);
}

// Another router's sequences took the place meanwhile: credits fall to zero, the start waits there.
TEST_F(SchedulerTest, WorkerMayKeepAStartWaiting) {
  Make(2);
  Welcome(0, /*slots=*/2);
  const int64_t waiting = Submit(1, 10);
  WorkerEvents events;
  events.credits = {.handled_start_count = 1, .state_slots = 0, .kv_blocks = 0, .ready = true};
  scheduler_->OnStep(0, events, now_);
  Submit(1, 10);
  now_ += absl::Hours(1);
  scheduler_->Tick(now_);
  EXPECT_EQ(commands_.starts.size(), 1U);
  EXPECT_EQ(scheduler_->num_running(), 1U);
  EXPECT_FALSE(sinks_[0]->error);

  scheduler_->OnStep(0, Tokens(1, {5}, events.credits), now_);  // its turn
  EXPECT_THAT(sinks_[0]->ids, ElementsAre(5));
  scheduler_->Cancel(waiting);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  events.credits = {.handled_start_count = 1, .state_slots = 1, .kv_blocks = 9, .ready = true};
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(commands_.starts.size(), 2U);
}

// A worker that grants what it has, behind a link that is late in both directions: whatever the
// delays, it is never given more than it has, and everything is answered.
TEST_F(SchedulerTest, NeverOvercommitsALateWorker) {
  constexpr int32_t kSlots = 5;
  constexpr int64_t kBlocks = 12;
  Make(1, 1000);
  Welcome(0, kSlots, kBlocks);
  uint32_t random = 12345;
  const auto next_random = [&random](uint32_t bound) {
    random = random * 1664525 + 1013904223;
    return (random >> 16) % bound;
  };
  for (int i = 0; i < 200; ++i) Submit(1 + static_cast<int>(next_random(300)), 1);
  std::vector<StartCommand> held;
  size_t handled = 0;
  int64_t used_blocks = 0;
  int num_finished = 0;
  const auto blocks_of = [](const StartCommand& start) {
    return KvBlocksToStart(static_cast<int64_t>(start.token_ids.size()), kBlocks);
  };
  for (int step = 0; step < 100000 && num_finished < 200; ++step) {
    // Some of the starts that are on the way arrive.
    for (uint32_t n = next_random(3); n > 0 && handled < commands_.starts.size(); --n) {
      held.push_back(commands_.starts[handled++].second);
      used_blocks += blocks_of(held.back());
      ASSERT_LE(held.size(), static_cast<size_t>(kSlots));
      ASSERT_LE(used_blocks, kBlocks);
    }
    WorkerEvents events;
    if (!held.empty() && next_random(2) == 0) {
      used_blocks -= blocks_of(held.front());
      events = Tokens(held.front().sequence_id, {5}, {});
      events.finished.push_back(Finished(held.front().sequence_id, AnswerEnd::kLength));
      held.erase(held.begin());
      ++num_finished;
    }
    events.credits = {.handled_start_count = static_cast<int64_t>(handled),
                      .state_slots = kSlots - static_cast<int32_t>(held.size()),
                      .kv_blocks = kBlocks - used_blocks,
                      .ready = true};
    scheduler_->OnStep(0, std::move(events), now_);
  }
  EXPECT_EQ(num_finished, 200);
  for (const auto& sink : sinks_) EXPECT_EQ(sink->end, AnswerEnd::kLength);
}

}  // namespace
}  // namespace m1
