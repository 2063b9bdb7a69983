// Several samples of one request: each its own sequence, with a prompt that is computed once.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST(SampleSeedTest, IsTheCallersForTheFirstAndSplitMix64OfTheSumForTheOthers) {
  EXPECT_EQ(SampleSeed(7, 0), 7U);
  // The generator's first output for the state 1234567 (its published test vector).
  EXPECT_EQ(SampleSeed(1234566, 1), 6457827717110365317U);
  EXPECT_EQ(SampleSeed(1234560, 7), 6457827717110365317U);
  EXPECT_EQ(SampleSeed(~uint64_t{0}, 1), 0xE220A8397B1DCDAFU);  // the sum wraps to 0
}

class SchedulerSamplesTest : public SchedulerTest {
 protected:
  // Its sinks are the last `count` of sinks_.
  int64_t SubmitSamples(int count, int prompt_tokens = 3) {
    GenerationRequest request = MakeRequest(prompt_tokens, 10);
    request.sampling.seed = 100;
    request.sample_count = count;
    request.prompt_logprobs = true;
    return SubmitSamples(std::move(request));
  }
  int64_t SubmitSamples(GenerationRequest request) {
    std::vector<std::shared_ptr<SequenceSink>> sinks;
    for (int i = 0; i < request.sample_count; ++i) {
      sinks_.push_back(std::make_shared<RecordingSink>());
      sinks.push_back(sinks_.back());
    }
    const auto id =
        scheduler_->Submit(std::make_shared<const GenerationRequest>(request), sinks, now_);
    EXPECT_OK(id);
    return id.value_or(0);
  }
  static WorkerCredits Credits(int64_t handled, int32_t slots, int64_t kv_blocks = 1000) {
    return {.handled_start_count = handled,
            .state_slots = slots,
            .kv_blocks = kv_blocks,
            .ready = true};
  }
  WorkerEvents Ends(int64_t sequence_id, WorkerCredits credits) {
    WorkerEvents events;
    events.finished.push_back(Finished(sequence_id, AnswerEnd::kLength));
    events.credits = credits;
    return events;
  }
};

TEST_F(SchedulerSamplesTest, EachIsStartedWithItsSeedAndTheSamePromptGroup) {
  Make(1);
  Welcome(0);
  const int64_t id = SubmitSamples(3);
  ASSERT_EQ(commands_.starts.size(), 3U);
  for (int i = 0; i < 3; ++i) {
    const StartCommand& start = commands_.starts[static_cast<size_t>(i)].second;
    EXPECT_EQ(start.sampling.seed, SampleSeed(100, i));
    EXPECT_EQ(start.prompt_group, id);
    EXPECT_EQ(start.prompt_logprobs, i == 0);
    EXPECT_EQ(start.arrival_order, id + i);
  }
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
}

TEST_F(SchedulerSamplesTest, OneSampleNeedsNoGroup) {
  Make(1);
  Welcome(0);
  SubmitSamples(1);
  EXPECT_EQ(commands_.starts[0].second.prompt_group, 0);
  EXPECT_THAT(commands_.releases, IsEmpty());
}

TEST_F(SchedulerSamplesTest, AreStartedOneByOneAsCreditsAllowAndTheGroupIsReleasedAtTheLast) {
  Make(1);
  Welcome(0, /*slots=*/2);
  const int64_t id = SubmitSamples(4);
  EXPECT_EQ(commands_.starts.size(), 2U);
  EXPECT_THAT(commands_.releases, IsEmpty());
  scheduler_->OnStep(0, Ends(1, Credits(2, 1)), now_);
  EXPECT_EQ(commands_.starts.size(), 3U);
  scheduler_->OnStep(0, Ends(2, Credits(3, 1)), now_);
  EXPECT_EQ(commands_.starts.size(), 4U);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
}

TEST_F(SchedulerSamplesTest, PreferTheWorkerThatHasThePromptAndNeedFewBlocksThere) {
  Make(2);
  // 10 blocks and one more for the first; the others need the last one and one more.
  Welcome(0, 8, /*kv_blocks=*/15);
  Welcome(1, 8, /*kv_blocks=*/15);
  SubmitSamples(3, /*prompt_tokens=*/640);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 0, 0));
}

TEST_F(SchedulerSamplesTest, ASampleOnAnotherWorkerIsReleasedThereToo) {
  Make(2);
  Welcome(0, 1);
  Welcome(1, 1);
  const int64_t id = SubmitSamples(3);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 1));
  scheduler_->OnStep(1, Ends(1, Credits(1, 1)), now_);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 1, 1));
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id), Pair(1, id)));
}

TEST_F(SchedulerSamplesTest, AGroupWhoseRestIsCancelledIsReleased) {
  Make(1);
  Welcome(0, 1);
  const int64_t id = SubmitSamples(3);
  scheduler_->Cancel(id + 1);
  EXPECT_THAT(commands_.releases, IsEmpty());
  scheduler_->Cancel(id + 2);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
}

TEST_F(SchedulerSamplesTest, EachIsReplayedByItselfAndALostWorkerIsToldNothing) {
  Make(2);
  Welcome(0, 2);
  const int64_t id = SubmitSamples(3);
  scheduler_->OnStep(0, Tokens(2, {5, 6}, Credits(2, 0)), now_);
  scheduler_->OnLost(0, now_);
  Welcome(1, 8);
  ASSERT_EQ(commands_.starts.size(), 5U);
  EXPECT_EQ(commands_.starts[2].second.token_ids, (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(commands_.starts[3].second.token_ids, (std::vector<int32_t>{1, 1, 1, 5, 6}));
  EXPECT_EQ(commands_.starts[3].second.sampling.seed, SampleSeed(100, 1));
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(1, id)));
  // When all have been started a replay is on its own.
  WorkerEvents dropped;
  dropped.preempted_sequence_ids = {1};
  dropped.credits = Plenty();
  scheduler_->OnStep(1, dropped, now_);
  EXPECT_EQ(commands_.starts[5].second.prompt_group, 0);
}

TEST_F(SchedulerSamplesTest, ARequestTakesOnePlaceInTheQueue) {
  Make(1, /*queue_size=*/2);
  SubmitSamples(64);
  Submit();
  const auto refused =
      scheduler_->Submit(MakeRequest(3, 10), std::make_shared<RecordingSink>(), now_);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, testing::HasSubstr("full")));
  EXPECT_EQ(scheduler_->num_queued(), 65U);
  Welcome(0, 1);  // the first sample runs, the others of its request wait
  EXPECT_EQ(scheduler_->num_queued(), 64U);
  EXPECT_FALSE(
      scheduler_->Submit(MakeRequest(3, 10), std::make_shared<RecordingSink>(), now_).ok());
}

TEST_F(SchedulerSamplesTest, ReplaysShareAsWell) {
  Make(2);
  Welcome(0);
  const int64_t id = SubmitSamples(3);
  ASSERT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
  scheduler_->OnLost(0, now_);
  Welcome(1);
  ASSERT_EQ(commands_.starts.size(), 6U);
  for (size_t i = 3; i < 6; ++i) EXPECT_EQ(commands_.starts[i].second.prompt_group, id);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id), Pair(1, id)));
}

TEST_F(SchedulerSamplesTest, WhereThePromptWasLostTheNextNeedsAllBlocks) {
  Make(1);
  Welcome(0, /*slots=*/1, /*kv_blocks=*/15);
  const int64_t id = SubmitSamples(3, /*prompt_tokens=*/640);
  ASSERT_EQ(commands_.starts.size(), 1U);
  WorkerEvents lost = Ends(1, Credits(1, 1, /*kv_blocks=*/5));
  lost.lost_prompt_groups = {id};
  scheduler_->OnStep(0, lost, now_);
  EXPECT_EQ(commands_.starts.size(), 1U);
  WorkerEvents credits;
  credits.credits = Credits(1, 1, /*kv_blocks=*/11);
  scheduler_->OnStep(0, credits, now_);
  EXPECT_EQ(commands_.starts.size(), 2U);
  // It computes the prompt, so that the third needs few again.
  scheduler_->OnStep(0, Ends(2, Credits(2, 1, /*kv_blocks=*/2)), now_);
  EXPECT_EQ(commands_.starts.size(), 3U);
}

TEST_F(SchedulerSamplesTest, TokensThatEachScoresAreNotShared) {
  Make(1);
  Welcome(0, /*slots=*/8, /*kv_blocks=*/15);
  GenerationRequest request = MakeRequest(640, 640);
  request.sample_count = 2;
  request.generated_prompt_token_count = 320;
  request.repetition.max_run = 3000;
  SubmitSamples(request);
  // Four blocks are shared; of the second one's seven only four are free.
  EXPECT_EQ(commands_.starts.size(), 1U);
}

TEST_F(SchedulerSamplesTest, TheFailureOfOneEndsTheOthersAtOnce) {
  Make(1);
  Welcome(0, 2);
  const int64_t id = SubmitSamples(3);
  WorkerEvents fails;
  fails.finished.push_back(Finished(1, AnswerEnd::kError));
  fails.credits = Credits(2, 0);
  scheduler_->OnStep(0, fails, now_);
  EXPECT_THAT(*sinks_[0]->error, StatusIs(absl::StatusCode::kInternal, testing::_));
  EXPECT_THAT(commands_.cancels, ElementsAre(Pair(0, 2)));
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  EXPECT_FALSE(sinks_[1]->error || sinks_[2]->error || sinks_[1]->end);  // one word is enough
}

TEST_F(SchedulerSamplesTest, FailuresOfALostWorkersSamplesEndEachRequestOnce) {
  Make(1);
  for (int i = 0; i < 2; ++i) SubmitSamples(4);
  for (int i = 0; i < 4; ++i) {
    Welcome(0, 8);
    scheduler_->OnLost(0, now_);
  }
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  int num_errors = 0;
  for (const auto& sink : sinks_) num_errors += sink->error ? 1 : 0;
  EXPECT_EQ(num_errors, 2);
}

TEST_F(SchedulerSamplesTest, WhoseReaderHasEnoughIsNotStarted) {
  Make(1);
  Welcome(0, 1);
  const int64_t id = SubmitSamples(3);
  sinks_[1]->starting = SinkState::kIsFull;
  scheduler_->OnStep(0, Ends(1, Credits(1, 1)), now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[1].second.arrival_order, id + 2);
  EXPECT_THAT(commands_.releases, IsEmpty());  // one may still come
  sinks_[1]->starting = SinkState::kTakesMore;
  scheduler_->Resume(id + 1, now_);
  scheduler_->OnStep(0, Ends(2, Credits(2, 1)), now_);
  ASSERT_EQ(commands_.starts.size(), 3U);
  EXPECT_EQ(commands_.starts[2].second.arrival_order, id + 1);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
}

// Three samples of 640 tokens hold 9 shared blocks and 2 each.
TEST_F(SchedulerSamplesTest, SharedBlocksAreGivenBackWithTheLastSample) {
  Make(1);
  Welcome(0, 3, /*kv_blocks=*/18);
  SubmitSamples(3, /*prompt_tokens=*/640);
  ASSERT_EQ(commands_.starts.size(), 3U);
  WorkerEvents running;
  running.credits = Credits(3, 0, /*kv_blocks=*/3);
  scheduler_->OnStep(0, running, now_);
  GenerationRequest urgent = MakeRequest(300, 10);  // 6 blocks
  urgent.priority = 1;
  Submit(urgent);
  EXPECT_THAT(commands_.preempts, ElementsAre(Pair(0, 3), Pair(0, 2)));
}

TEST_F(SchedulerSamplesTest, AKeptPromptGoesBeforeASampleForHigherPriority) {
  Make(1);
  Welcome(0, 2);
  const int64_t id = SubmitSamples(6);
  WorkerEvents kept;  // one runs, one slot holds the prompt
  kept.credits = Credits(2, 0);
  scheduler_->OnStep(0, Ends(2, Credits(2, 0)), now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  GenerationRequest urgent = MakeRequest(3, 10);
  urgent.priority = 5;
  Submit(urgent);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
  EXPECT_THAT(commands_.preempts, IsEmpty());
  // Until the worker's credits tell of it nothing more is taken.
  scheduler_->OnStep(0, kept, now_);
  EXPECT_THAT(commands_.preempts, IsEmpty());
  kept.credits = Credits(2, 1);
  scheduler_->OnStep(0, kept, now_);
  ASSERT_EQ(commands_.starts.size(), 3U);
  EXPECT_EQ(commands_.starts[2].second.priority, 5);
  // The next sample begins the group anew, and it is released again at the end.
  scheduler_->OnStep(0, Ends(1, Credits(3, 1)), now_);
  ASSERT_EQ(commands_.starts.size(), 4U);
  EXPECT_EQ(commands_.starts[3].second.prompt_group, id);
}

TEST_F(SchedulerSamplesTest, ALongUrgentPromptTakesTheKeptOneAndTheSamples) {
  Make(1);
  Welcome(0, 8, /*kv_blocks=*/60);
  const int64_t id = SubmitSamples(16, /*prompt_tokens=*/2560);  // 39 shared
  ASSERT_EQ(commands_.starts.size(), 8U);
  WorkerEvents running;
  running.credits = Credits(8, 0, /*kv_blocks=*/4);
  scheduler_->OnStep(0, running, now_);
  GenerationRequest urgent = MakeRequest(3300, 10);
  urgent.priority = 5;
  Submit(urgent);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
  EXPECT_EQ(commands_.preempts.size(), 8U);
}

TEST_F(SchedulerSamplesTest, WhatIsOnlyParkedKeepsNoPrompt) {
  Make(1);
  Welcome(0, 2);
  const int64_t id = SubmitSamples(3);
  for (const auto& sink : sinks_) sink->state = sink->starting = SinkState::kIsFull;
  WorkerEvents events = Tokens(1, {5}, Credits(2, 0));
  scheduler_->OnStep(0, events, now_);
  EXPECT_THAT(commands_.releases, IsEmpty());  // another one still runs
  scheduler_->OnStep(0, Tokens(2, {5}, Credits(2, 2)), now_);
  EXPECT_THAT(commands_.releases, ElementsAre(Pair(0, id)));
  EXPECT_EQ(scheduler_->num_queued() + scheduler_->num_running(), 0U);
  for (const auto& sink : sinks_) sink->state = sink->starting = SinkState::kTakesMore;
  for (int i = 0; i < 3; ++i) scheduler_->Resume(id + i, now_);
  ASSERT_EQ(commands_.starts.size(), 4U);
  EXPECT_EQ(commands_.starts[2].second.prompt_group, id);
}

TEST_F(SchedulerSamplesTest, WhosePromptIsStillScoredNeedsAllBlocks) {
  Make(1);
  Welcome(0, 2, /*kv_blocks=*/100);
  SubmitSamples(3, /*prompt_tokens=*/640);
  WorkerEvents dropped;
  dropped.preempted_sequence_ids = {1};
  dropped.credits = Credits(2, 1, /*kv_blocks=*/5);
  scheduler_->OnStep(0, dropped, now_);
  EXPECT_EQ(commands_.starts.size(), 2U);  // sample 0 is first, and waits
  dropped = {};
  dropped.credits = Credits(2, 1, /*kv_blocks=*/11);
  scheduler_->OnStep(0, dropped, now_);
  EXPECT_EQ(commands_.starts.size(), 3U);
}

TEST_F(SchedulerSamplesTest, TickEndsWhatRunsPastItsDeadline) {
  Make(1);
  Welcome(0, 1);
  GenerationRequest request = MakeRequest(3, 10);
  request.sample_count = 2;
  request.deadline = now_ + absl::Seconds(5);
  SubmitSamples(request);
  scheduler_->Tick(now_ + absl::Seconds(4));
  EXPECT_THAT(commands_.cancels, IsEmpty());
  scheduler_->Tick(now_ + absl::Seconds(6));
  EXPECT_THAT(commands_.cancels, ElementsAre(Pair(0, 1)));
  EXPECT_THAT(*sinks_[0]->error,
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::HasSubstr("deadline")));
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
}

TEST_F(SchedulerSamplesTest, QueueTimeoutEndsWithTheFirstStart) {
  Make(1);
  GenerationRequest request = MakeRequest(3, 10);
  request.sample_count = 2;
  request.queue_timeout = absl::Seconds(5);
  SubmitSamples(request);
  SubmitSamples(request);
  Welcome(0, 1);
  scheduler_->Tick(now_ + absl::Seconds(6));
  EXPECT_FALSE(sinks_[1]->error);
  EXPECT_THAT(*sinks_[2]->error,
              StatusIs(absl::StatusCode::kDeadlineExceeded, testing::HasSubstr("queued")));
}

TEST_F(SchedulerSamplesTest, AbortEndsEach) {
  Make(1);
  Welcome(0, 1);
  const int64_t id = SubmitSamples(2);
  EXPECT_TRUE(scheduler_->Abort(id, now_));
  EXPECT_TRUE(scheduler_->Abort(id + 1, now_));
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kCancelled);
  EXPECT_EQ(sinks_[1]->end, AnswerEnd::kCancelled);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
}

}  // namespace
}  // namespace m1
