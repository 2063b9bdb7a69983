// A scheduler without threads and gRPC: recorded commands, recorded answers.
#pragma once

#include <gmock/gmock.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "router/scheduler.h"
#include "tests/support/status_matchers.h"

namespace m1 {

class RecordingSink final : public SequenceSink {
 public:
  SinkState OnStarting() override { return starting; }
  void OnStarted(absl::Time /*now*/) override { ++num_started; }
  SinkState OnPromptTokens(int32_t first_index, std::vector<AnswerToken> tokens) override {
    EXPECT_EQ(first_index, static_cast<int32_t>(prompt_ids.size()));
    for (const AnswerToken& token : tokens) prompt_ids.push_back(token.id);
    return state;
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    for (const AnswerToken& token : tokens) ids.push_back(token.id);
    return state;
  }
  void OnFinished(AnswerEnd how, int32_t /*stop_token_id*/, absl::Time /*now*/) override {
    EXPECT_FALSE(end || error);
    end = how;
  }
  void OnFailed(const absl::Status& status) override {
    EXPECT_FALSE(end || error);
    error = status;
  }

  SinkState state = SinkState::kTakesMore;  // what it answers
  SinkState starting = SinkState::kTakesMore;
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
    } else if (auto* preempt = std::get_if<PreemptCommand>(&command)) {
      preempts.emplace_back(worker_index, preempt->sequence_id);
    } else if (auto* release = std::get_if<ReleasePromptCommand>(&command)) {
      releases.emplace_back(worker_index, release->prompt_group);
    } else {
      ++num_continues;
    }
  }

  std::vector<std::pair<int, StartCommand>> starts;
  std::vector<std::pair<int, int64_t>> cancels;
  std::vector<std::pair<int, int64_t>> preempts;
  std::vector<std::pair<int, int64_t>> releases;
  int num_continues = 0;  // and tokens to take
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

  // The sinks of submitted requests are kept in sinks_, in order.
  int64_t Submit(GenerationRequest request) {
    sinks_.push_back(std::make_shared<RecordingSink>());
    const auto id = scheduler_->Submit(std::move(request), sinks_.back(), now_);
    EXPECT_OK(id);
    return id.value_or(0);
  }

  // A request of `prompt_tokens` tokens.
  int64_t Submit(int prompt_tokens = 3, int32_t max_new_tokens = 10) {
    return Submit(MakeRequest(prompt_tokens, max_new_tokens));
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

  static FinishedEvent Finished(int64_t sequence_id, AnswerEnd end) {
    FinishedEvent finished;
    finished.sequence_id = sequence_id;
    finished.end = end;
    return finished;
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

}  // namespace m1
