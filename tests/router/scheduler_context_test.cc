// Workers of different sizes: how long an answer may become, and who can hold it.
#include "tests/router/scheduler_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;

TEST_F(SchedulerTest, PromptThatNoWorkerHoldsIsRefused) {
  Make(1);
  Submit(64 * 3 + 1);
  Welcome(0, 8, /*kv_blocks=*/3);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SchedulerTest, BegunAnswersWaitForAWorkerThatCanFinishThem) {
  Make(2);
  Welcome(0, 8, /*kv_blocks=*/100);
  Submit(10, 6000);
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);
  scheduler_->OnLost(0, now_);
  Welcome(1, 8, /*kv_blocks=*/10);
  EXPECT_EQ(commands_.starts.size(), 1U);
  EXPECT_FALSE(sinks_[0]->error);
  Welcome(0, 8, /*kv_blocks=*/100);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0, 0));
}

TEST_F(SchedulerTest, SmallerWorkerThatJoinsDoesNotCutAcceptedAnswers) {
  Make(2);
  Welcome(0, /*slots=*/1, /*kv_blocks=*/100);
  Submit(10, 10);
  Submit(640, 50000);  // bounded by worker 0: 100 blocks of 64 tokens
  Welcome(1, /*slots=*/8, /*kv_blocks=*/10);
  EXPECT_THAT(StartedWorkers(), ElementsAre(0));  // 640 tokens fill worker 1 to the last
  WorkerEvents events;
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  ASSERT_THAT(StartedWorkers(), ElementsAre(0, 0));
  EXPECT_EQ(commands_.starts[1].second.max_new_tokens, 6400 - 640);
}

TEST_F(SchedulerTest, SmallerWorkerTakesWhatItHoldsToTheEnd) {
  Make(2);
  Welcome(0, /*slots=*/1, /*kv_blocks=*/100);
  Welcome(1, /*slots=*/8, /*kv_blocks=*/10);
  Submit(10, 1000);  // both are connected: 640 tokens are the context
  Submit(10, 630);
  Submit(10, 50000);
  ASSERT_THAT(StartedWorkers(), ElementsAre(0, 1, 1));
  for (const auto& start : commands_.starts) EXPECT_EQ(start.second.max_new_tokens, 630);
}

TEST_F(SchedulerTest, WhatNoReadyWorkerHoldsIsBoundedByTheOneThatTakesIt) {
  Make(2);
  Submit(640, 50000);  // before any worker is connected
  Welcome(1, /*slots=*/8, /*kv_blocks=*/10);
  ASSERT_EQ(commands_.starts.size(), 1U);
  EXPECT_EQ(commands_.starts[0].second.max_new_tokens, 0);
  WorkerEvents events;
  events.credits = Plenty();
  scheduler_->OnStep(1, events, now_);
  Submit(639, 50000);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[1].second.max_new_tokens, 1);
}

// What an earlier stream of the request has generated counts into the length of the answer.
TEST_F(SchedulerTest, GeneratedPromptTokensCountIntoTheLimits) {
  Make(1);
  Welcome(0, /*slots=*/8, /*kv_blocks=*/2);  // 128 tokens
  GenerationRequest request = MakeRequest(/*prompt_tokens=*/100, /*max_new_tokens=*/1000);
  request.generated_prompt_token_count = 60;
  Submit(request);
  const RecordingSink* sink = sinks_[0].get();
  EXPECT_EQ(commands_.starts[0].second.max_new_tokens, 88);
  EXPECT_EQ(commands_.starts[0].second.prompt_token_count, 100);
  EXPECT_EQ(scheduler_->worker(0).outstanding_tokens, 128);
  scheduler_->OnStep(0, Tokens(1, std::vector<int32_t>(28, 5), Plenty()), now_);
  scheduler_->OnLost(0, now_);
  EXPECT_EQ(sink->end, AnswerEnd::kLength);
}

}  // namespace
}  // namespace m1
