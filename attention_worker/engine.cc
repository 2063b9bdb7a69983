#include "attention_worker/engine.h"

#include <algorithm>

#include "absl/strings/str_join.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/thread_name.h"
#include "common/kernels/exact_math.h"

namespace m1 {
namespace {

constexpr size_t kMaxQueuedCommands = 1 << 16;

// What went wrong between workers is not the request's fault: only "try elsewhere" passes.
absl::Status StepError(const absl::Status& status) {
  if (status.ok() || absl::IsUnavailable(status) || absl::IsCancelled(status)) return status;
  return absl::InternalError(
      absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()));
}

int64_t NumFolds(const StepBatch& batch) {
  int64_t count = 0;
  for (const BatchSequence& sequence : batch.sequences) {
    const SequenceRows& rows = sequence.rows;
    count += (rows.first_position + rows.num_rows) / kLightningChunk -
             rows.first_position / kLightningChunk;
  }
  return count;
}

}  // namespace

Engine::Engine(const EngineOptions& options, std::unique_ptr<ForwardPass> forward,
               ExpertExchange* exchange)
    : options_(options),
      forward_(std::move(forward)),
      exchange_(exchange),
      commands_(kMaxQueuedCommands),
      policy_(options.limits),
      lanes_(options.lanes),
      thread_([this] { Loop(); }) {}

Engine::~Engine() {
  stopping_ = true;
  exchange_->Shutdown();
  commands_.Close();
  thread_.join();
}

int64_t Engine::AddClient(std::shared_ptr<EventSink> sink) {
  const int64_t client_id = next_client_id_++;
  commands_.PushAlways(AddClientCommand{client_id, std::move(sink)});
  return client_id;
}

void Engine::RemoveClient(int64_t client_id) {
  commands_.PushAlways(RemoveClientCommand{client_id});
}

absl::Status Engine::Submit(int64_t client_id, SequenceCommand command) {
  if (commands_.TryPush(ClientCommand{client_id, std::move(command)})) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(kMaxQueuedCommands, " commands wait already, or the worker ends"));
}

void Engine::Wake() { commands_.PushAlways(WakeCommand{}); }

void Engine::OnExpertsChanged() {
  Wake();
  // The loop may be inside a step that waits for these very experts.
  if (exchange_->MissingExperts().empty()) return;
  MutexLock lock(&sent_mutex_);
  for (auto& [client_id, sent] : sent_) {
    if (!sent.credits.ready) continue;
    sent.credits.ready = false;
    StepEvents events;
    events.credits = sent.credits;
    sent.sink->OnStep(events);
  }
}

void Engine::Drain() {
  draining_ = true;
  Wake();
}

EngineStats Engine::stats() const {
  MutexLock lock(&stats_mutex_);
  EngineStats stats = stats_;
  stats.draining = draining_;
  return stats;
}

void Engine::Loop() {
  NameThread("step-loop");
  const ScopedFlushDenormals flush;
  bool idle = true;
  while (!stopping_) {
    HandleCommands(/*poll=*/!idle);
    if (stopping_) break;
    if (draining_) HandOver();
    ready_ = ExpertsReachable();
    idle = !ready_ || !RunStep();
    Deliver();
  }
  Rest();
}

void Engine::Beat() {
  if (options_.heartbeat != nullptr) options_.heartbeat->Beat();
}

void Engine::Rest() {
  if (options_.heartbeat != nullptr) options_.heartbeat->Rest();
}

void Engine::HandleCommands(bool poll) {
  std::optional<Command> command;
  if (!poll) Rest();
  if (poll) {
    command = commands_.TryPop();
  } else if (experts_missing_since_ == absl::InfiniteFuture()) {
    command = commands_.Pop();
  } else {
    command = commands_.PopUntil(experts_missing_since_ + options_.expert_loss_timeout);
  }
  Beat();
  for (; command; command = commands_.TryPop()) Handle(*command);
}

bool Engine::ExpertsReachable() {
  const std::vector<int32_t> missing = exchange_->MissingExperts();
  if (missing.empty()) {
    experts_missing_since_ = absl::InfiniteFuture();
    return true;
  }
  const absl::Time now = absl::Now();
  if (experts_missing_since_ == absl::InfiniteFuture()) {
    M1_LOG(kWarning) << "experts have no host missing=" << absl::StrJoin(missing, ",");
    experts_missing_since_ = now;
  } else if (now - experts_missing_since_ >= options_.expert_loss_timeout) {
    FailAll(absl::UnavailableError(
        absl::StrCat("no worker hosts experts ", absl::StrJoin(missing, ","))));
    experts_missing_since_ = now;
  }
  return false;
}

void Engine::FailAll(const absl::Status& status) {
  for (const SequenceKey& key : policy_.Keys())
    Finish(key, FailedSequence(key.sequence_id, status));
}

void Engine::HandOver() {
  policy_.DropKeptPrompts();
  for (const SequenceKey& key : policy_.Keys()) {
    policy_.Remove(key);
    ReportPreempted(key);
  }
}

void Engine::ReportPreempted(const SequenceKey& key) {
  {
    MutexLock lock(&stats_mutex_);
    ++stats_.preemption_count;
  }
  if (Client* client = FindClient(key.client_id)) {
    client->events.preempted_sequence_ids.push_back(key.sequence_id);
  }
}

bool Engine::RunStep() {
  StepPlan plan = policy_.Plan();
  int32_t num_lanes = 0;
  int64_t num_folds = 0;
  for (const SequenceKey& key : plan.preempted) ReportPreempted(key);
  absl::Status prepared;
  for (const SlotPreparation& slot : plan.preparations) prepared.Update(Prepare(slot));
  if (!prepared.ok()) {  // whose memory is good is not known
    policy_.DropKeptPrompts();
    FailAll(StepError(prepared));
    return true;
  }
  if (!plan.rows.empty()) {
    std::vector<LogitPurpose> purposes;
    StepBatch batch = MakeBatch(plan, purposes);
    batch.num_lanes = lanes_.NumLanes(batch.num_rows());
    // Copies of kept prompts are rare, and more or fewer rows would not make them shorter.
    const absl::Time started = absl::Now();
    const auto handle = [&](int64_t first, TensorView logits, std::span<const float> lse) {
      return HandleRows(
          std::span<const LogitPurpose>(purposes).subspan(static_cast<size_t>(first), lse.size()),
          logits, lse);
    };
    const absl::Status status = StepError(forward_->Run(batch, handle));
    const absl::Time ended = absl::Now();
    policy_.RecordStep(plan, ended - started);
    lanes_.Record(batch.num_rows(), batch.num_lanes, ended - started);
    if (options_.trace != nullptr) {
      options_.trace->Add(
          {.name = "step", .begin = started, .end = ended, .rows = batch.num_rows()});
    }
    num_lanes = batch.num_lanes;
    num_folds = NumFolds(batch);
    FinishStep(plan, status);
  }
  UpdateStats(plan, num_lanes, num_folds);
  return !plan.rows.empty();
}

absl::Status Engine::Prepare(const SlotPreparation& preparation) {
  if (!preparation.from_slot) return forward_->ResetSlot(preparation.slot);
  M1_RETURN_IF_ERROR(forward_->CopySlot(*preparation.from_slot, preparation.slot));
  if (!preparation.from_block) return absl::OkStatus();
  return forward_->CopyBlock(*preparation.from_block, preparation.to_block);
}

StepBatch Engine::MakeBatch(const StepPlan& plan, std::vector<LogitPurpose>& purposes) const {
  StepBatch batch;
  for (const PlannedRows& planned : plan.rows) {
    Sequence& sequence = *planned.sequence;
    const SequenceRows rows{.row_begin = batch.num_rows(),
                            .num_rows = planned.num_rows,
                            .first_position = sequence.num_computed};
    for (int64_t i = 0; i < rows.num_rows; ++i) {
      batch.token_ids.push_back(sequence.tokens[static_cast<size_t>(rows.first_position + i)]);
      batch.positions.push_back(rows.first_position + i);
    }
    batch.sequences.push_back({rows, sequence.state_slot(), sequence.blocks.ids()});
    AddLogitRows(sequence, rows, batch, purposes);
  }
  return batch;
}

void Engine::AddLogitRows(Sequence& sequence, const SequenceRows& rows, StepBatch& batch,
                          std::vector<LogitPurpose>& purposes) const {
  const int64_t num_prompt = sequence.start.prompt_token_count;
  for (int64_t i = 0; i < rows.num_rows; ++i) {
    const int64_t predicted = rows.first_position + i + 1;
    bool wanted = false;
    if (predicted < num_prompt) {
      wanted = sequence.wants_prompt_token(predicted) || predicted >= sequence.first_counted_index;
    } else if (predicted < sequence.num_tokens()) {
      wanted = predicted >= sequence.next_generated_index;
    } else {
      wanted =
          !sequence.end_when_scored && sequence.num_generated() < sequence.start.max_new_tokens;
    }
    if (!wanted) continue;
    purposes.push_back({&sequence, predicted});
    batch.logit_rows.push_back(static_cast<int32_t>(rows.row_begin + i));
    batch.logit_temperatures.push_back(sequence.start.sampling.logprob_temperature());
  }
}

void Engine::FinishStep(const StepPlan& plan, const absl::Status& status) {
  for (const PlannedRows& planned : plan.rows) {
    Sequence& sequence = *planned.sequence;
    sequence.num_computed += planned.num_rows;
    if (!status.ok()) sequence.end = FailedSequence(sequence.key.sequence_id, status);
    if (!sequence.end) KeepPrompt(sequence);
    if (!sequence.end && sequence.num_pending() == 0) {  // a prompt to be scored only
      sequence.end = sequence.end_when_scored.value_or(
          FinishedSequence{.sequence_id = sequence.key.sequence_id, .end = SequenceEnd::kLength});
    }
    if (sequence.end) {
      FinishedSequence end = *std::move(sequence.end);
      Finish(SequenceKey(sequence.key), std::move(end));
    } else if (sequence.phase == SequencePhase::kPaused) {
      if (Client* client = FindClient(sequence.key.client_id)) {
        client->events.paused_sequence_ids.push_back(sequence.key.sequence_id);
      }
    }
  }
  if (!status.ok()) {
    M1_LOG(kWarning) << "step failed: " << status;
  }
}

void Engine::KeepPrompt(Sequence& sequence) {
  const auto kept = policy_.KeepPrompt(sequence);
  if (!kept) return;
  const absl::Status status = StepError(Prepare(*kept));
  if (status.ok()) return;
  policy_.DropKeptPrompts();
  sequence.end = FailedSequence(sequence.key.sequence_id, status);
}

void Engine::Finish(const SequenceKey& key, FinishedSequence finished) {
  const int64_t client_id = key.client_id;
  policy_.Remove(key);
  if (Client* client = FindClient(client_id)) {
    client->events.finished.push_back(std::move(finished));
  }
}

void Engine::Deliver() {
  for (const PromptGroupKey& key : policy_.TakeLostPrompts()) {
    if (Client* client = FindClient(key.client_id)) {
      client->events.lost_prompt_groups.push_back(key.prompt_group);
    }
  }
  {
    MutexLock lock(&sent_mutex_);
    for (auto& [client_id, sent] : sent_) {
      Client& client = clients_[client_id];
      // Every client may use all that is free: what two of them start at once waits here for its
      // turn.
      client.events.credits = {.handled_start_count = client.handled_start_count,
                               .state_slots = static_cast<int32_t>(policy_.num_grantable_slots()),
                               .kv_blocks = policy_.num_grantable_blocks(),
                               .ready = ready_ && !draining_};
      if (client.events.empty() && client.events.credits == sent.credits) continue;
      sent.credits = client.events.credits;
      sent.sink->OnStep(client.events);
      client.events = {};
    }
  }
  MutexLock lock(&stats_mutex_);
  stats_.used_sequences = static_cast<int32_t>(policy_.num_used_slots());
  stats_.used_kv_blocks = policy_.num_used_blocks();
  stats_.waiting_sequences = policy_.num_waiting();
  stats_.client_count = static_cast<int32_t>(clients_.size());
}

void Engine::UpdateStats(const StepPlan& plan, int32_t num_lanes, int64_t num_folds) {
  MutexLock lock(&stats_mutex_);
  stats_.fork_count = policy_.num_forks();
  if (plan.rows.empty()) return;
  stats_.prefill_token_count += plan.num_prefill_rows;
  stats_.decode_token_count += plan.num_decode_rows;
  stats_.fold_count += num_folds;
  ++stats_.step_count;
  if (plan.num_decode_rows > 0 && plan.num_prefill_rows > 0) ++stats_.mixed_step_count;
  if (num_lanes > 1) ++stats_.split_step_count;
  stats_.max_step_rows = std::max(
      stats_.max_step_rows, static_cast<int32_t>(plan.num_decode_rows + plan.num_prefill_rows));
}

Engine::Client* Engine::FindClient(int64_t client_id) {
  const auto found = clients_.find(client_id);
  return found == clients_.end() ? nullptr : &found->second;
}

}  // namespace m1
