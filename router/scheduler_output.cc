// The scheduler's handling of what workers compute: output to the sinks, ends, misbehaviour.
#include <algorithm>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "router/scheduler.h"

namespace m1 {
namespace {

// An error without an error code is the worker's bug, not success.
absl::Status WorkerError(const FinishedEvent& finished) {
  const bool is_error_code = finished.status_code >= 1 && finished.status_code <= 16;
  return absl::Status(is_error_code ? static_cast<absl::StatusCode>(finished.status_code)
                                    : absl::StatusCode::kInternal,
                      finished.status_message);
}

}  // namespace

bool Scheduler::DeliverPromptTokens(int worker_index, PromptTokensEvent scored, absl::Time now) {
  RoutedSequence* sequence = FindRunning(worker_index, scored.sequence_id);
  if (sequence == nullptr || scored.tokens.empty()) return true;
  if (FailedAtDeadline(sequence, now)) return true;
  const int64_t expected = sequence->resume.next_prompt_logprob_index;
  const int64_t end = scored.first_index + static_cast<int64_t>(scored.tokens.size());
  if (scored.first_index != expected ||
      end > static_cast<int64_t>(sequence->request->prompt_ids.size())) {
    Fail(sequence, absl::InternalError(absl::StrCat(
                       "the worker scored prompt tokens ", scored.first_index, " to ", end, " of ",
                       sequence->request->prompt_ids.size(), ", expected ", expected)));
    return true;
  }
  sequence->resume.next_prompt_logprob_index = static_cast<int32_t>(end);
  sequence->identity = workers_[static_cast<size_t>(worker_index)].identity;
  sequence->losses_in_a_row = 0;
  return sequence->sink->OnPromptTokens(scored.first_index, std::move(scored.tokens)) !=
         SinkState::kIsFull;
}

bool Scheduler::DeliverTokens(int worker_index, TokensEvent event, absl::Time now) {
  RoutedSequence* sequence = FindRunning(worker_index, event.sequence_id);
  if (sequence == nullptr || event.tokens.empty()) return true;
  if (FailedAtDeadline(sequence, now)) return true;
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  const auto num_tokens = static_cast<int64_t>(event.tokens.size());
  const int32_t pause = sequence->pause_at_generated_count;
  const int64_t room = (pause > 0 ? pause : sequence->max_new_tokens) - sequence->num_generated();
  if (num_tokens > room) {
    Fail(sequence, absl::InternalError(absl::StrCat("the worker sent ", num_tokens,
                                                    " tokens where at most ", room, " may come")));
    return true;
  }
  if (absl::Status status = RecordTokens(event.tokens, sequence); !status.ok()) {
    Fail(sequence, status);
    return true;
  }
  sequence->identity = worker.identity;
  sequence->losses_in_a_row = 0;
  sequence->outstanding_tokens -= num_tokens;
  worker.outstanding_tokens -= num_tokens;
  queue_.Charge(sequence->ticket(), num_tokens);
  const SinkState state = sequence->sink->OnTokens(std::move(event.tokens), now);
  if (state == SinkState::kIsComplete) {
    CancelOnWorker(sequence);
    Finish(sequence, AnswerEnd::kStopString, 0, now);
    return true;
  }
  MovePause(sequence);
  return state == SinkState::kTakesMore;
}

void Scheduler::MovePause(RoutedSequence* sequence) {
  if (sequence->pause_at_generated_count == 0) return;
  const ThinkingBudget& thinking = *sequence->thinking;
  // A provisional pause is moved only when it is reached: else every token would move it. Where
  // something is to be fed, the worker pauses now.
  if (thinking.pause_is_provisional() || !thinking.ids_to_feed().empty()) return;
  const int32_t pause = NextPause(*sequence);
  if (pause == sequence->pause_at_generated_count) return;
  sequence->pause_at_generated_count = pause;
  commands_->Send(sequence->worker_index, ContinueCommand{sequence->worker_sequence_id, pause});
}

void Scheduler::HandlePaused(int worker_index, int64_t worker_sequence_id) {
  RoutedSequence* sequence = FindRunning(worker_index, worker_sequence_id);
  if (sequence == nullptr) return;
  const int32_t reached = sequence->pause_at_generated_count;
  if (reached == 0) {  // nobody asked for it
    commands_->Send(worker_index, ContinueCommand{.sequence_id = worker_sequence_id});
    return;
  }
  // Of a pause that has been moved since, the worker knows by now.
  if (sequence->num_generated() != reached) return;
  const std::span<const int32_t> fed = sequence->thinking->ids_to_feed();
  const int32_t pause = NextPause(*sequence);
  sequence->pause_at_generated_count = pause;
  if (fed.empty()) {
    commands_->Send(worker_index, ContinueCommand{worker_sequence_id, pause});
  } else {
    commands_->Send(worker_index,
                    TakeTokensCommand{worker_sequence_id, {fed.begin(), fed.end()}, pause});
  }
}

void Scheduler::HandleFinished(int worker_index, const FinishedEvent& finished, absl::Time now) {
  RoutedSequence* sequence = FindRunning(worker_index, finished.sequence_id);
  if (sequence == nullptr) return;
  switch (finished.end) {
    case AnswerEnd::kStopToken:
    case AnswerEnd::kLength:
    case AnswerEnd::kRepetition:
      Finish(sequence, finished.end, finished.stop_token_id, now);
      return;
    case AnswerEnd::kStopString:  // never from a worker
    case AnswerEnd::kCancelled:
      // Not asked for: the worker gives up its sequences, another may have them.
      RequeueAfterLoss(sequence, now);
      return;
    case AnswerEnd::kError:
      Detach(sequence);
      Fail(sequence, WorkerError(finished));
  }
}

}  // namespace m1
