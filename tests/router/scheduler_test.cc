// Order of work: who is started when and where, and who waits too long.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(SchedulerTest, StartsInOrderOfArrivalAsCreditsAllow) {
  Make(1);
  Welcome(0, /*slots=*/2);
  for (int i = 0; i < 4; ++i) Submit(/*prompt_tokens=*/i + 1);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[0].second.prompt_token_count, 1);
  EXPECT_EQ(commands_.starts[1].second.prompt_token_count, 2);
  EXPECT_EQ(scheduler_->num_queued(), 2U);

  // One slot more than the two starts took.
  WorkerEvents events;
  events.credits = {.handled_start_count = 2, .state_slots = 1, .kv_blocks = 50, .ready = true};
  scheduler_->OnStep(0, events, now_);
  ASSERT_EQ(commands_.starts.size(), 3U);
  EXPECT_EQ(commands_.starts[2].second.prompt_token_count, 3);
}

TEST_F(SchedulerTest, LongPromptWaitsForBlocksAndIsNotPassed) {
  Make(1);
  Welcome(0, /*slots=*/8, /*kv_blocks=*/10);
  Submit(64 * 6);
  Submit(64 * 6);
  Submit(1);
  EXPECT_EQ(commands_.starts.size(), 1U);
  EXPECT_EQ(scheduler_->num_queued(), 2U);
}

TEST_F(SchedulerTest, PrefersTheWorkerWithFewestOutstandingTokens) {
  Make(3);
  for (int i = 0; i < 3; ++i) Welcome(i);
  Submit(100, 100);
  Submit(10, 10);
  Submit(10, 100);
  Submit(1, 1);    // worker 1 has 20 outstanding
  Submit(50, 50);  // worker 1 has 22
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 1, 2, 1, 1));
  EXPECT_EQ(scheduler_->worker(1).outstanding_tokens, 122);
}

TEST_F(SchedulerTest, OutstandingTokensFallAsTokensCome) {
  Make(1);
  Welcome(0);
  Submit(3, 10);
  EXPECT_EQ(scheduler_->worker(0).outstanding_tokens, 13);
  scheduler_->OnStep(0, Tokens(1, {5, 6}, Plenty()), now_);
  EXPECT_EQ(scheduler_->worker(0).outstanding_tokens, 11);
  WorkerEvents events;
  events.finished.push_back(Finished(1, AnswerEnd::kLength));
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(scheduler_->worker(0).outstanding_tokens, 0);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
}

TEST_F(SchedulerTest, RefusesWhenTheQueueIsFull) {
  Make(1, /*queue_size=*/2);
  Submit();
  Submit();
  auto sink = std::make_shared<RecordingSink>();
  EXPECT_THAT(scheduler_->Submit(MakeRequest(1, 1), sink, now_),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("queue is full")));
  Welcome(0);
  EXPECT_OK(scheduler_->Submit(MakeRequest(1, 1), sink, now_));
}

TEST_F(SchedulerTest, CancelOfAWaitingRequestTakesItOutOfTheQueue) {
  Make(1);
  const int64_t id = Submit();
  EXPECT_EQ(scheduler_->num_queued(), 1U);
  scheduler_->Cancel(id);
  EXPECT_EQ(scheduler_->num_queued(), 0U);
}

TEST_F(SchedulerTest, NoWorkerForTooLongIsUnavailable) {
  Make(1);
  Submit();
  now_ += absl::Seconds(59);
  scheduler_->Tick(now_);
  EXPECT_FALSE(sinks_[0]->error);
  now_ += absl::Seconds(2);
  scheduler_->Tick(now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kUnavailable);
}

TEST_F(SchedulerTest, WaitingForCreditsIsNotWaitingForAWorker) {
  Make(1);
  Welcome(0, /*slots=*/1);
  Submit();
  Submit();
  for (int i = 0; i < 100; ++i) {
    now_ += absl::Seconds(10);
    scheduler_->Tick(now_);
  }
  EXPECT_FALSE(sinks_[1]->error);
  scheduler_->OnLost(0, now_);
  now_ += absl::Seconds(30);
  Welcome(0, /*slots=*/1);
  EXPECT_FALSE(sinks_[0]->error);
  EXPECT_EQ(commands_.starts.size(), 2U);
}

TEST_F(SchedulerTest, WorkerThatIsNotReadyGetsNothing) {
  Make(1);
  WorkerWelcome welcome = MakeWelcome(8, 100, "f");
  welcome.credits.ready = false;
  ASSERT_OK(scheduler_->OnWelcome(0, welcome, now_));
  Submit();
  EXPECT_THAT(commands_.starts, IsEmpty());
  EXPECT_FALSE(scheduler_->any_worker_ready());
  WorkerEvents events;
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(commands_.starts.size(), 1U);
}

TEST_F(SchedulerTest, QueueTimeoutEndsOnlyWhatWasNeverStarted) {
  Make(1);
  Welcome(0, /*slots=*/1);
  for (int i = 0; i < 2; ++i) {
    GenerationRequest request = MakeRequest(1, 10);
    request.queue_timeout = absl::Seconds(5);
    Submit(request);
  }
  now_ += absl::Seconds(6);
  scheduler_->Tick(now_);
  ASSERT_TRUE(sinks_[1]->error);
  EXPECT_THAT(*sinks_[1]->error,
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("queued")));
  scheduler_->OnLost(0, now_);
  scheduler_->Tick(now_);
  EXPECT_FALSE(sinks_[0]->error);
}

}  // namespace
}  // namespace m1
