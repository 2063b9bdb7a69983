#include "router/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

// A sequence that loses this many workers without any output between is not tried again: it may be
// what kills them.
constexpr int kMaxLossesInARow = 4;
constexpr size_t kMaxSessions = 65536;

// What an earlier stream has generated counts into the budget.
absl::Status RecordEarlierTokens(const GenerationRequest& request, ThinkingBudget* thinking) {
  const size_t first =
      request.prompt_ids.size() - static_cast<size_t>(request.generated_prompt_token_count);
  for (size_t i = first; i < request.prompt_ids.size(); ++i) {
    if (thinking->Record(request.prompt_ids[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "generated_prompt_token_count is ", request.generated_prompt_token_count, ", but token ", i,
        " of the prompt is not the one that thinking.closing_text brings"));
  }
  return absl::OkStatus();
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, CommandSink* commands)
    : options_(options),
      commands_(commands),
      workers_(static_cast<size_t>(options.num_workers)),
      queue_(static_cast<size_t>(options.queue_size), options.priority_ageing),
      retry_advice_(static_cast<size_t>(options.queue_size)),
      sessions_(kMaxSessions) {}

absl::StatusOr<int64_t> Scheduler::Submit(std::shared_ptr<const GenerationRequest> request,
                                          const std::vector<std::shared_ptr<SequenceSink>>& sinks,
                                          absl::Time now) {
  std::optional<ThinkingBudget> thinking;
  if (request->thinking) {
    thinking.emplace(*request->thinking, options_.pieces);
    M1_RETURN_IF_ERROR(RecordEarlierTokens(*request, &*thinking));
  }
  const int num_samples = request->sample_count;
  M1_CHECK(num_samples >= 1 && static_cast<size_t>(num_samples) == sinks.size());
  const auto group = std::make_shared<SampleGroup>(SampleGroup{.id = next_arrival_order_,
                                                               .request = request,
                                                               .arrival_time = now,
                                                               .num_samples = num_samples,
                                                               .num_unstarted = num_samples,
                                                               .num_open = num_samples,
                                                               .num_queued = num_samples});
  const int32_t max_new_tokens = BoundAtArrival(*request);
  for (int i = 0; i < num_samples; ++i) {
    auto sequence = std::make_unique<RoutedSequence>();
    sequence->arrival_order = group->id + i;
    sequence->sample_index = i;
    sequence->request = request;
    sequence->group = group;
    if (thinking) sequence->thinking.emplace(*thinking);
    sequence->max_new_tokens = max_new_tokens;
    sequence->sink = sinks[static_cast<size_t>(i)];
    sequence->arrival_time = now;
    sequence->unserved_since = now;
    if (!queue_.TryPush(sequence->ticket())) {  // the first, if any
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", queue_.capacity(), " requests are waiting"));
    }
    sequences_.emplace(sequence->arrival_order, std::move(sequence));
  }
  next_arrival_order_ += num_samples;
  DispatchWaiting(now);
  return group->id;
}

void Scheduler::Cancel(int64_t id) {
  RoutedSequence* sequence = Find(id);
  if (sequence == nullptr) return;
  CancelOnWorker(sequence);
  Erase(sequence);
}

bool Scheduler::Abort(int64_t id, absl::Time now) {
  RoutedSequence* sequence = Find(id);
  if (sequence == nullptr) return false;
  CancelOnWorker(sequence);
  Finish(sequence, AnswerEnd::kCancelled, 0, now);
  return true;
}

void Scheduler::Resume(int64_t id, absl::Time now) {
  RoutedSequence* sequence = Find(id);
  if (sequence == nullptr || sequence->state != SequenceState::kParked) return;
  Requeue(sequence, now);
  DispatchWaiting(now);
}

void Scheduler::AddWorker(int worker_index) {
  const auto index = static_cast<size_t>(worker_index);
  if (index >= workers_.size()) workers_.resize(index + 1);
  if (!workers_[index].is_connected) workers_[index] = WorkerState();
}

absl::Status Scheduler::OnWelcome(int worker_index, const WorkerWelcome& welcome, absl::Time now) {
  const std::optional<FleetIdentity> fleet = fleet_identity();
  if (fleet && !(*fleet == welcome.identity)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the worker's identity differs from that of the connected workers: fingerprint ",
        welcome.identity.fingerprint, " (fleet ", fleet->fingerprint, "), weights ",
        welcome.identity.weight_format, " (", fleet->weight_format, "), activations ",
        welcome.identity.activation_dtype, " (", fleet->activation_dtype, "), device ",
        welcome.identity.device_kind, " (", fleet->device_kind, "), numerics revision ",
        welcome.identity.numerics_revision, " (", fleet->numerics_revision, ")"));
  }
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  worker = WorkerState();
  worker.is_connected = true;
  worker.identity = welcome.identity;
  worker.limits = welcome.limits;
  worker.ledger.Update(welcome.credits);
  queue_.BringBack();
  DispatchWaiting(now);
  return absl::OkStatus();
}

void Scheduler::OnStep(int worker_index, WorkerEvents events, absl::Time now) {
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  if (!worker.is_connected) return;
  std::vector<int64_t> full_ids;
  for (PromptTokensEvent& scored : events.prompt_tokens) {
    const int64_t id = scored.sequence_id;
    if (!DeliverPromptTokens(worker_index, std::move(scored), now)) full_ids.push_back(id);
  }
  for (TokensEvent& event : events.tokens) {
    const int64_t id = event.sequence_id;
    if (!DeliverTokens(worker_index, std::move(event), now)) full_ids.push_back(id);
  }
  for (const FinishedEvent& finished : events.finished) {
    HandleFinished(worker_index, finished, now);
  }
  for (int64_t id : events.preempted_sequence_ids) {
    RoutedSequence* sequence = FindRunning(worker_index, id);
    if (sequence == nullptr) continue;
    Detach(sequence);
    ++num_preempted_;
    Requeue(sequence, now);
  }
  for (const int64_t group_id : events.lost_prompt_groups) {
    const auto prompt = worker.prompts.find(group_id);
    if (prompt != worker.prompts.end()) prompt->second.is_kept = false;
  }
  for (int64_t id : full_ids) {
    // Frees what it holds on its worker until its reader has caught up.
    RoutedSequence* sequence = FindRunning(worker_index, id);
    if (sequence == nullptr) continue;
    CancelOnWorker(sequence);
    ReleaseUnwanted(*sequence->group);
  }
  for (int64_t id : events.paused_sequence_ids) HandlePaused(worker_index, id);
  const bool was_ready = worker.is_ready();
  worker.ledger.Update(events.credits);
  if (worker.steps_until_dropped > 0 && --worker.steps_until_dropped == 0) worker.dropped = {};
  if (worker.is_ready() && !was_ready) queue_.BringBack();
  DispatchWaiting(now);
}

void Scheduler::OnLost(int worker_index, absl::Time now) {
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  if (!worker.is_connected) return;
  worker.is_connected = false;
  worker.prompts.clear();
  std::vector<int64_t> lost_ids;
  for (const auto& entry : worker.running) lost_ids.push_back(entry.second->arrival_order);
  std::sort(lost_ids.begin(), lost_ids.end());
  for (const int64_t id : lost_ids) {
    // The end of one sample may have been that of others.
    if (RoutedSequence* sequence = Find(id)) RequeueAfterLoss(sequence, now);
  }
  DispatchWaiting(now);
}

void Scheduler::Tick(absl::Time now) {
  // Of samples that no worker has had yet one speaks for all.
  const SampleGroup* last_group = nullptr;
  bool any_eligible = false;
  for (const int64_t id : Ids()) {
    RoutedSequence* sequence = Find(id);
    if (sequence == nullptr || FailedAtDeadline(sequence, now)) continue;
    if (sequence->state != SequenceState::kQueued || FailedAtQueueTimeout(sequence, now)) continue;
    if (sequence->was_started || sequence->group.get() != last_group) {
      any_eligible = AnyEligible(*sequence);
      last_group = sequence->was_started ? nullptr : sequence->group.get();
    }
    if (any_eligible) {
      sequence->unserved_since = now;
    } else if (now - sequence->unserved_since > options_.worker_loss_timeout) {
      Fail(sequence, absl::UnavailableError(
                         absl::StrCat("no attention worker was ready for ",
                                      absl::FormatDuration(options_.worker_loss_timeout))));
    }
  }
  DispatchWaiting(now);
}

bool Scheduler::FailedAtQueueTimeout(RoutedSequence* sequence, absl::Time now) {
  const absl::Duration waited = now - sequence->arrival_time;
  if (sequence->group->was_started() || waited <= sequence->request->queue_timeout) return false;
  Fail(sequence, absl::DeadlineExceededError(absl::StrCat(
                     "queued for ", absl::FormatDuration(waited), ", queue_timeout is ",
                     absl::FormatDuration(sequence->request->queue_timeout))));
  return true;
}

bool Scheduler::FailedAtDeadline(RoutedSequence* sequence, absl::Time now) {
  if (now < sequence->request->deadline) return false;
  const bool is_queued = sequence->state == SequenceState::kQueued;
  Fail(sequence, absl::DeadlineExceededError(is_queued ? "the client's deadline passed in the queue"
                                                       : "the client's deadline passed"));
  return true;
}

void Scheduler::FailAll(const absl::Status& status) {
  while (!sequences_.empty()) {
    Fail(sequences_.begin()->second.get(), status);
  }
}

size_t Scheduler::num_running() const {
  size_t count = 0;
  for (const WorkerState& worker : workers_) count += worker.running.size();
  return count;
}

bool Scheduler::any_worker_ready() const {
  return std::any_of(workers_.begin(), workers_.end(),
                     [](const WorkerState& worker) { return worker.is_ready(); });
}

std::optional<FleetIdentity> Scheduler::fleet_identity() const {
  for (const WorkerState& worker : workers_) {
    if (worker.is_connected) return worker.identity;
  }
  return std::nullopt;
}

std::optional<int64_t> Scheduler::max_sequence_tokens() const {
  std::optional<int64_t> least;
  for (const WorkerState& worker : workers_) {
    if (!worker.is_connected) continue;
    const int64_t tokens = worker.limits.max_sequence_tokens();
    least = least ? std::min(*least, tokens) : tokens;
  }
  return least;
}

RoutedSequence* Scheduler::Find(int64_t id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

std::vector<int64_t> Scheduler::Ids() const {
  std::vector<int64_t> ids;
  ids.reserve(sequences_.size());
  for (const auto& entry : sequences_) ids.push_back(entry.first);
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Null for ids of sequences that were cancelled: their last events may still be on the way.
RoutedSequence* Scheduler::FindRunning(int worker_index, int64_t worker_sequence_id) {
  const auto& running = workers_[static_cast<size_t>(worker_index)].running;
  const auto it = running.find(worker_sequence_id);
  return it == running.end() ? nullptr : it->second;
}

int32_t Scheduler::BoundAtArrival(const GenerationRequest& request) const {
  const auto num_tokens = static_cast<int64_t>(request.prompt_ids.size());
  int64_t bound = request.max_new_tokens;
  for (const WorkerState& worker : workers_) {
    const int64_t room = worker.limits.max_sequence_tokens() - num_tokens;
    if (worker.is_connected && room > 0) {
      bound = std::min(bound, room + request.generated_prompt_token_count);
    }
  }
  return static_cast<int32_t>(bound);
}

void Scheduler::RequeueAfterLoss(RoutedSequence* sequence, absl::Time now) {
  Detach(sequence);
  ++num_lost_;
  if (++sequence->losses_in_a_row < kMaxLossesInARow) return Requeue(sequence, now);
  Fail(sequence, absl::UnavailableError(absl::StrCat("lost ", kMaxLossesInARow,
                                                     " workers in a row without progress")));
}

void Scheduler::Requeue(RoutedSequence* sequence, absl::Time now) {
  // The worker may have been lost between the last token and the word that it was the last.
  if (const std::optional<AnswerEnd> end = EndOfAnswer(*sequence)) {
    return Finish(sequence, *end, sequence->resume.emitted_ids.back(), now);
  }
  SetState(sequence, SequenceState::kQueued);
  sequence->unserved_since = now;
  queue_.Return(sequence->ticket(), /*to_head=*/sequence->was_started);
}

void Scheduler::Detach(RoutedSequence* sequence) {
  if (sequence->state != SequenceState::kRunning) return;
  WorkerState& worker = workers_[static_cast<size_t>(sequence->worker_index)];
  worker.outstanding_tokens -= sequence->outstanding_tokens;
  worker.running.erase(sequence->worker_sequence_id);
  sequence->worker_index = -1;
  sequence->outstanding_tokens = 0;
  sequence->is_being_preempted = false;
  SetState(sequence, SequenceState::kParked);
}

void Scheduler::SetState(RoutedSequence* sequence, SequenceState state) {
  SampleGroup& group = *sequence->group;
  const auto count = [&group](SequenceState of, int change) {
    if (of == SequenceState::kQueued) group.num_queued += change;
    if (of == SequenceState::kRunning) group.num_running += change;
  };
  count(sequence->state, -1);
  count(state, 1);
  sequence->state = state;
}

void Scheduler::ReleaseUnwanted(const SampleGroup& group) {
  if (group.num_samples == 1 || group.WantsPrompt()) return;
  for (int i = 0; i < num_workers(); ++i) {
    if (workers_[static_cast<size_t>(i)].prompts.erase(group.id) == 0) continue;
    commands_->Send(i, ReleasePromptCommand{.prompt_group = group.id});
  }
}

void Scheduler::CancelOnWorker(RoutedSequence* sequence) {
  if (sequence->state != SequenceState::kRunning) return;
  commands_->Send(sequence->worker_index,
                  CancelCommand{.sequence_id = sequence->worker_sequence_id});
  Detach(sequence);
}

void Scheduler::Finish(RoutedSequence* sequence, AnswerEnd end, int32_t stop_token_id,
                       absl::Time now) {
  sequence->sink->OnFinished(end, stop_token_id, now);
  Erase(sequence);
}

void Scheduler::Fail(RoutedSequence* sequence, const absl::Status& status) {
  sequence->sink->OnFailed(status);
  const std::shared_ptr<const SampleGroup> group = sequence->group;  // beyond its last sequence
  for (int i = 0; i < group->num_samples; ++i) {
    RoutedSequence* sample = Find(group->id + i);
    if (sample == nullptr) continue;
    CancelOnWorker(sample);
    Erase(sample);
  }
}

void Scheduler::Erase(RoutedSequence* sequence) {
  Detach(sequence);
  SetState(sequence, SequenceState::kParked);
  SampleGroup& group = *sequence->group;
  --group.num_open;
  if (!sequence->was_started) --group.num_unstarted;
  ReleaseUnwanted(group);
  queue_.Remove(sequence->arrival_order);
  queue_.Leave(sequence->ticket());
  sequences_.erase(sequence->arrival_order);
}

}  // namespace m1
