// What workers report: output to the readers, ends, misbehaviour.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(SchedulerTest, CancelFreesAtOnceAndLateEventsAreDropped) {
  Make(1);
  Welcome(0, /*slots=*/1);
  const int64_t id = Submit();
  scheduler_->Cancel(id);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  WorkerEvents events = Tokens(1, {5}, Plenty());
  events.finished.push_back(Finished(1, AnswerEnd::kCancelled));
  scheduler_->OnStep(0, events, now_);
  EXPECT_THAT(sinks_[0]->ids, IsEmpty());
  EXPECT_FALSE(sinks_[0]->end);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  scheduler_->Cancel(id);  // no effect
}

TEST_F(SchedulerTest, AbortFinishesWithCancelled) {
  Make(1);
  Welcome(0);
  const int64_t id = Submit();
  EXPECT_TRUE(scheduler_->Abort(id, now_));
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kCancelled);
  EXPECT_FALSE(scheduler_->Abort(id, now_));
}

TEST_F(SchedulerTest, SlowReaderIsParkedAndGoesOnLater) {
  Make(1);
  Welcome(0);
  const int64_t id = Submit(1, 10);
  sinks_[0]->state = SinkState::kIsFull;
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  EXPECT_EQ(scheduler_->worker(0).running.size(), 0U);
  EXPECT_EQ(scheduler_->num_queued(), 0U);
  EXPECT_EQ(scheduler_->num_in_flight(), 1U);

  sinks_[0]->state = SinkState::kTakesMore;
  scheduler_->Resume(id, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_THAT(commands_.starts[1].second.token_ids, ElementsAre(1, 5));
  scheduler_->OnStep(0, Tokens(2, {6}, Plenty()), now_);
  EXPECT_THAT(sinks_[0]->ids, ElementsAre(5, 6));
}

TEST_F(SchedulerTest, CompleteAnswerIsFinishedAndFreedOnTheWorker) {
  Make(1);
  Welcome(0);
  Submit(1, 10);
  sinks_[0]->state = SinkState::kIsComplete;
  scheduler_->OnStep(0, Tokens(1, {5, 6}, Plenty()), now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kStopString);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  EXPECT_EQ(scheduler_->worker(0).outstanding_tokens, 0);
  scheduler_->OnStep(0, Tokens(1, {7}, Plenty()), now_);  // on the way before the cancel came
  EXPECT_EQ(sinks_[0]->ids.size(), 2U);
}

// A worker's own end, or error, of the same step comes too late.
TEST_F(SchedulerTest, CompleteAnswerHasNoOtherEnd) {
  Make(1);
  Welcome(0);
  Submit(1, 2);
  Submit(1, 9);
  for (const auto& sink : sinks_) sink->state = SinkState::kIsComplete;
  WorkerEvents events = Tokens(1, {5, 6}, Plenty());
  events.tokens.push_back(Tokens(2, {5}, Plenty()).tokens[0]);
  events.finished.push_back(Finished(1, AnswerEnd::kLength));
  events.finished.push_back(Finished(2, AnswerEnd::kError));
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kStopString);
  EXPECT_EQ(sinks_[1]->end, AnswerEnd::kStopString);
  EXPECT_FALSE(sinks_[1]->error);
}

TEST_F(SchedulerTest, EndInTheStepThatFilledTheReaderIsDelivered) {
  Make(1);
  Welcome(0);
  Submit(1, 10);
  sinks_[0]->state = SinkState::kIsFull;
  WorkerEvents events = Tokens(1, {5}, Plenty());
  events.finished.push_back(Finished(1, AnswerEnd::kRepetition));
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kRepetition);
  EXPECT_THAT(commands_.cancels, IsEmpty());
}

TEST_F(SchedulerTest, ScoredPromptTokensWithAGapFailTheRequest) {
  Make(1);
  Welcome(0);
  GenerationRequest request = MakeRequest(5, 1);
  request.prompt_logprobs = true;
  Submit(request);
  const RecordingSink* sink = sinks_[0].get();
  WorkerEvents events;
  events.prompt_tokens.push_back({1, 2, std::vector<AnswerToken>(3)});
  scheduler_->OnStep(0, events, now_);
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code(), absl::StatusCode::kInternal);
  EXPECT_EQ(commands_.cancels.size(), 1U);
}

TEST_F(SchedulerTest, MoreTokensThanAskedForFailTheRequest) {
  Make(1);
  Welcome(0);
  Submit(1, 2);
  scheduler_->OnStep(0, Tokens(1, {5, 6, 7}, Plenty()), now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_THAT(sinks_[0]->ids, IsEmpty());
}

TEST_F(SchedulerTest, ErrorWithoutCodeIsInternal) {
  Make(1);
  Welcome(0);
  Submit();
  WorkerEvents events;
  events.finished.push_back({.sequence_id = 1,
                             .end = AnswerEnd::kError,
                             .stop_token_id = 0,
                             .status_code = 0,
                             .status_message = "odd"});
  scheduler_->OnStep(0, events, now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kInternal);
}

TEST_F(SchedulerTest, PauseThatNobodyAskedForIsContinued) {
  Make(1);
  Welcome(0);
  Submit();
  WorkerEvents events;
  events.paused_sequence_ids = {1, 77};
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(commands_.num_continues, 1);
}

TEST_F(SchedulerTest, FailAllEndsEverything) {
  Make(1);
  Welcome(0, /*slots=*/1);
  Submit();
  Submit();
  scheduler_->FailAll(absl::UnavailableError("the router ends"));
  EXPECT_TRUE(sinks_[0]->error && sinks_[1]->error);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  EXPECT_EQ(commands_.cancels.size(), 1U);
}

}  // namespace
}  // namespace m1
