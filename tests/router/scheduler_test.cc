// The order of work, without threads and gRPC: a scheduler, recorded commands, recorded answers.
#include "router/scheduler.h"

#include <gmock/gmock.h>

#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class RecordingSink final : public SequenceSink {
 public:
  void OnStarted(absl::Time /*now*/) override { ++num_started; }
  bool OnPromptTokens(int32_t first_index, std::vector<AnswerToken> tokens) override {
    EXPECT_EQ(first_index, static_cast<int32_t>(prompt_ids.size()));
    for (const AnswerToken& token : tokens) prompt_ids.push_back(token.id);
    return takes_more;
  }
  bool OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    for (const AnswerToken& token : tokens) ids.push_back(token.id);
    return takes_more;
  }
  void OnFinished(AnswerEnd how, int32_t /*stop_token_id*/, absl::Time /*now*/) override {
    EXPECT_FALSE(end || error);
    end = how;
  }
  void OnFailed(const absl::Status& status) override {
    EXPECT_FALSE(end || error);
    error = status;
  }

  bool takes_more = true;
  int num_started = 0;
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;
  std::optional<AnswerEnd> end;
  std::optional<absl::Status> error;
};

class RecordingCommands final : public CommandSink {
 public:
  void Send(int worker_index, WorkerCommand command) override {
    if (auto* start = std::get_if<StartCommand>(&command)) {
      starts.emplace_back(worker_index, std::move(*start));
    } else if (auto* cancel = std::get_if<CancelCommand>(&command)) {
      cancels.emplace_back(worker_index, cancel->sequence_id);
    } else {
      ++num_continues;
    }
  }

  std::vector<std::pair<int, StartCommand>> starts;
  std::vector<std::pair<int, int64_t>> cancels;
  int num_continues = 0;
};

class SchedulerTest : public testing::Test {
 protected:
  void Make(int num_workers, int queue_size = 100) {
    scheduler_.emplace(SchedulerOptions{.num_workers = num_workers, .queue_size = queue_size},
                       &commands_);
  }

  void Welcome(int worker, int32_t slots = 8, int64_t kv_blocks = 100,
               const std::string& fingerprint = "f") {
    ASSERT_OK(scheduler_->OnWelcome(worker, MakeWelcome(slots, kv_blocks, fingerprint), now_));
  }

  static WorkerWelcome MakeWelcome(int32_t slots, int64_t kv_blocks,
                                   const std::string& fingerprint) {
    WorkerWelcome welcome;
    welcome.identity.fingerprint = fingerprint;
    welcome.limits = {.max_sequences = slots,
                      .kv_blocks = kv_blocks,
                      .max_context_tokens = 100000,
                      .max_step_tokens = 512};
    welcome.credits = {
        .handled_start_count = 0, .state_slots = slots, .kv_blocks = kv_blocks, .ready = true};
    return welcome;
  }

  // A request of `prompt_tokens` tokens; the sink is kept in sinks_ in order.
  int64_t Submit(int prompt_tokens = 3, int32_t max_new_tokens = 10) {
    GenerationRequest request = MakeRequest(prompt_tokens, max_new_tokens);
    auto sink = std::make_shared<RecordingSink>();
    sinks_.push_back(sink);
    const auto id = scheduler_->Submit(std::move(request), sink, now_);
    EXPECT_OK(id);
    return id.value_or(0);
  }

  static GenerationRequest MakeRequest(int prompt_tokens, int32_t max_new_tokens) {
    GenerationRequest request;
    request.prompt_ids.assign(static_cast<size_t>(prompt_tokens), 1);
    request.max_new_tokens = max_new_tokens;
    request.stop_token_ids = {99};
    return request;
  }

  static WorkerEvents Tokens(int64_t sequence_id, const std::vector<int32_t>& ids,
                             WorkerCredits credits) {
    WorkerEvents events;
    TokensEvent& event = events.tokens.emplace_back();
    event.sequence_id = sequence_id;
    for (int32_t id : ids)
      event.tokens.push_back({.id = id, .logprob = -1, .rank = 1, .candidates = {}});
    events.credits = credits;
    return events;
  }

  // Plenty, and every start counted in.
  static WorkerCredits Plenty() {
    return {.handled_start_count = 1000, .state_slots = 100, .kv_blocks = 1000, .ready = true};
  }

  std::vector<int> StartedWorkers() const {
    std::vector<int> workers;
    for (const auto& start : commands_.starts) workers.push_back(start.first);
    return workers;
  }

  RecordingCommands commands_;
  std::optional<Scheduler> scheduler_;
  std::vector<std::shared_ptr<RecordingSink>> sinks_;
  absl::Time now_ = absl::UnixEpoch();
};

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
  events.finished.push_back({.sequence_id = 1,
                             .end = AnswerEnd::kLength,
                             .stop_token_id = 0,
                             .status_code = 0,
                             .status_message = ""});
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
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_OK(scheduler_->Submit(request, sink, now_));
  WorkerEvents events;
  events.prompt_tokens.push_back({1, 0, std::vector<AnswerToken>(3)});
  events.credits = Plenty();
  scheduler_->OnStep(0, events, now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_EQ(commands_.starts[1].second.next_prompt_logprob_index, 3);
}

TEST_F(SchedulerTest, ScoredPromptTokensWithAGapFailTheRequest) {
  Make(1);
  Welcome(0);
  GenerationRequest request = MakeRequest(5, 1);
  request.prompt_logprobs = true;
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_OK(scheduler_->Submit(request, sink, now_));
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

TEST_F(SchedulerTest, RepetitionRunTravelsWithTheSequence) {
  Make(2);
  Welcome(0);
  Submit(1, 10);
  WorkerEvents events = Tokens(1, {4, 5, 6}, Plenty());
  events.tokens[0].tokens[1].logprob = -0.001F;
  events.tokens[0].tokens[2].logprob = 0.0F;
  scheduler_->OnStep(0, events, now_);
  Welcome(1);
  scheduler_->OnLost(0, now_);
  EXPECT_EQ(commands_.starts[1].second.repetition_run, 2);
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

TEST_F(SchedulerTest, CancelFreesAtOnceAndLateEventsAreDropped) {
  Make(1);
  Welcome(0, /*slots=*/1);
  const int64_t id = Submit();
  scheduler_->Cancel(id);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  WorkerEvents events = Tokens(1, {5}, Plenty());
  events.finished.push_back({.sequence_id = 1,
                             .end = AnswerEnd::kCancelled,
                             .stop_token_id = 0,
                             .status_code = 0,
                             .status_message = ""});
  scheduler_->OnStep(0, events, now_);
  EXPECT_THAT(sinks_[0]->ids, IsEmpty());
  EXPECT_FALSE(sinks_[0]->end);
  EXPECT_EQ(scheduler_->num_in_flight(), 0U);
  scheduler_->Cancel(id);  // no effect
}

TEST_F(SchedulerTest, CancelOfAWaitingRequestTakesItOutOfTheQueue) {
  Make(1);
  const int64_t id = Submit();
  EXPECT_EQ(scheduler_->num_queued(), 1U);
  scheduler_->Cancel(id);
  EXPECT_EQ(scheduler_->num_queued(), 0U);
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
  sinks_[0]->takes_more = false;
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);
  EXPECT_THAT(commands_.cancels, ElementsAre(std::make_pair(0, 1)));
  EXPECT_EQ(scheduler_->worker(0).running.size(), 0U);
  EXPECT_EQ(scheduler_->num_queued(), 0U);
  EXPECT_EQ(scheduler_->num_in_flight(), 1U);

  sinks_[0]->takes_more = true;
  scheduler_->Resume(id, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_THAT(commands_.starts[1].second.token_ids, ElementsAre(1, 5));
  scheduler_->OnStep(0, Tokens(2, {6}, Plenty()), now_);
  EXPECT_THAT(sinks_[0]->ids, ElementsAre(5, 6));
}

TEST_F(SchedulerTest, EndInTheStepThatFilledTheReaderIsDelivered) {
  Make(1);
  Welcome(0);
  Submit(1, 10);
  sinks_[0]->takes_more = false;
  WorkerEvents events = Tokens(1, {5}, Plenty());
  events.finished.push_back({.sequence_id = 1,
                             .end = AnswerEnd::kRepetition,
                             .stop_token_id = 0,
                             .status_code = 0,
                             .status_message = ""});
  scheduler_->OnStep(0, events, now_);
  EXPECT_EQ(sinks_[0]->end, AnswerEnd::kRepetition);
  EXPECT_THAT(commands_.cancels, IsEmpty());
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
    sinks_.push_back(std::make_shared<RecordingSink>());
    ASSERT_OK(scheduler_->Submit(request, sinks_.back(), now_));
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

TEST_F(SchedulerTest, PromptThatNoWorkerHoldsIsRefused) {
  Make(1);
  Submit(64 * 3 + 1);
  Welcome(0, 8, /*kv_blocks=*/3);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_EQ(sinks_[0]->error->code(), absl::StatusCode::kInvalidArgument);
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

TEST(CreditLedgerTest, BlocksToStartAreOneMoreThanTheTokensNeed) {
  EXPECT_EQ(KvBlocksToStart(1, 10), 2);
  EXPECT_EQ(KvBlocksToStart(64, 10), 2);
  EXPECT_EQ(KvBlocksToStart(65, 10), 3);
  EXPECT_EQ(KvBlocksToStart(640, 10), 10);
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
      events.finished.push_back({.sequence_id = held.front().sequence_id,
                                 .end = AnswerEnd::kLength,
                                 .stop_token_id = 0,
                                 .status_code = 0,
                                 .status_message = ""});
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
