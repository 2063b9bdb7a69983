// What a worker drops, or held when it was lost, goes on elsewhere.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(SchedulerTest, ReplaysFromTheResumePointOnAnotherWorker) {
  Make(2);
  Welcome(0);
  Submit(3, 10);
  scheduler_->OnStep(0, Tokens(1, {5, 6}, Plenty()), now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);

  ASSERT_THAT(StartedWorkers(), ElementsAre(0, 1));
  const StartCommand& start = commands_.starts[1].second;
  EXPECT_THAT(start.token_ids, ElementsAre(1, 1, 1, 5, 6));
  EXPECT_EQ(start.prompt_token_count, 3);
  EXPECT_EQ(start.max_new_tokens, 10);
  EXPECT_EQ(start.arrival_order, 1);
  scheduler_->OnStep(1, Tokens(1, {7}, Plenty()), now_);
  EXPECT_THAT(sinks_[0]->ids, ElementsAre(5, 6, 7));
  EXPECT_EQ(sinks_[0]->num_started, 1);
}

TEST_F(SchedulerTest, PromptLogprobsGoOnWhereTheyStopped) {
  Make(2);
  Welcome(0);
  GenerationRequest request = MakeRequest(5, 1);
  request.prompt_logprobs = true;
  Submit(request);
  WorkerEvents events;
  events.prompt_tokens.push_back({1, 0, std::vector<AnswerToken>(3)});
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[1].second.next_prompt_logprob_index, 3);
}

TEST_F(SchedulerTest, RepetitionRunTravelsWithTheSequence) {
  Make(2);
  Welcome(0);
  GenerationRequest request = MakeRequest(1, 10);
  request.repetition = {.max_run = 3, .logprob = -0.01};
  Submit(request);
  EXPECT_EQ(commands_.starts[0].second.repetition.max_run, 3);
  EXPECT_EQ(commands_.starts[0].second.repetition.logprob, -0.01);
  WorkerEvents events = Tokens(1, {4, 5, 6}, Plenty());
  events.tokens[0].tokens[1].logprob = -0.001F;
  events.tokens[0].tokens[2].logprob = 0.0F;
  scheduler_->OnStep(0, events, now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);
  EXPECT_EQ(commands_.starts[1].second.repetition_run, 2);
  // The third, and then the worker dies before it says so.
  events = Tokens(1, {7}, Plenty());
  events.tokens[0].tokens[0].logprob = -0.009F;
  scheduler_->OnStep(1, events, now_);
  scheduler_->OnLost(1, now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kRepetition);
}

TEST_F(SchedulerTest, PreemptedSequencesGoToTheHead) {
  Make(1);
  Welcome(0, /*slots=*/1);
  Submit(7, 10);
  Submit(8, 10);
  WorkerEvents events;
  events.preempted_sequence_ids = {1};
  events.credits = {.handled_start_count = 1, .state_slots = 1, .kv_blocks = 50, .ready = true};
  scheduler_->OnStep(0, events, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[1].second.prompt_token_count, 7);
  EXPECT_NE(commands_.starts[1].second.sequence_id, commands_.starts[0].second.sequence_id);
}

TEST_F(SchedulerTest, StartThatWaitedOnALostWorkerGoesToAnother) {
  Make(2);
  Welcome(0);
  Submit(1, 10);
  WorkerEvents events;
  events.credits = {.handled_start_count = 1, .state_slots = 0, .kv_blocks = 0, .ready = true};
  scheduler_->OnStep(0, events, now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 1));
}

TEST_F(SchedulerTest, AnswerThatWasCompleteWhenTheWorkerDiedIsFinished) {
  Make(1);
  Welcome(0);
  Submit(1, 10);
  Submit(1, 2);
  Submit(1, 10);
  scheduler_->OnStep(0, Tokens(1, {5, 99}, Plenty()), now_);
  scheduler_->OnStep(0, Tokens(2, {5, 6}, Plenty()), now_);
  scheduler_->OnStep(0, Tokens(3, {5, 6}, Plenty()), now_);
  scheduler_->OnLost(0, now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kStopToken);
  EXPECT_EQ(sinks_[1]->end, AnswerEnd::kLength);
  EXPECT_FALSE(sinks_[2]->end);
  EXPECT_EQ(scheduler_->num_queued(), 1U);
}

// A stop token that was fed before min_new_tokens has not ended the answer.
TEST_F(SchedulerTest, StopTokenBeforeMinNewTokensIsNoEnd) {
  Make(1);
  Welcome(0);
  GenerationRequest request = MakeRequest(5, 10);
  request.min_new_tokens = 3;
  request.generated_prompt_token_count = 1;
  Submit(request);
  const RecordingSink* sink = sinks_[0].get();
  scheduler_->OnStep(0, Tokens(1, {5, 99}, Plenty()), now_);
  scheduler_->OnLost(0, now_);
  EXPECT_FALSE(sink->end);
  Welcome(0);
  const StartCommand& start = commands_.starts.back().second;
  EXPECT_EQ(start.min_new_tokens, 3);
  EXPECT_EQ(start.generated_prompt_token_count, 1);
  EXPECT_EQ(start.token_ids.size(), 7U);
  scheduler_->OnStep(0, Tokens(1, {99}, Plenty()), now_);
  scheduler_->OnLost(0, now_);
  EXPECT_EQ(sink->end, AnswerEnd::kStopToken);
}

TEST_F(SchedulerTest, SequenceThatKillsWorkersIsGivenUp) {
  Make(1);
  Submit();
  for (int i = 0; i < 4; ++i) {
    Welcome(0);
    scheduler_->OnLost(0, now_);
  }
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_THAT(*sinks_[0]->error, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("in a row")));
}

TEST_F(SchedulerTest, AnotherIdentityIsRefusedWhileAWorkerIsConnected) {
  Make(2);
  Welcome(0);
  EXPECT_THAT(scheduler_->OnWelcome(1, MakeWelcome(8, 100, "other"), now_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("other")));
  scheduler_->OnLost(0, now_);
  EXPECT_OK(scheduler_->OnWelcome(1, MakeWelcome(8, 100, "other"), now_));
}

TEST_F(SchedulerTest, BegunAnswersNeverMoveToAnotherIdentity) {
  Make(2);
  Welcome(0, 8, 100, "old");
  Submit();
  Submit();
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);  // the second has no output yet
  scheduler_->OnLost(0, now_);
  Welcome(1, 8, 100, "new");
  ASSERT_EQ(commands_.starts.size(), 3U);
  EXPECT_EQ(commands_.starts[2].second.arrival_order, 2);
  now_ += absl::Seconds(61);
  scheduler_->Tick(now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace m1
