// Who is started next, where, and who makes room for it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "router/scheduler.h"

namespace m1 {
namespace {

// Tokens that the sequence may reach; what a worker has to compute when it starts it.
int64_t MaxTotalTokens(const RoutedSequence& sequence) {
  return sequence.num_tokens() + std::max<int64_t>(0, sequence.num_remaining());
}

// Whole KV blocks that the samples of a request have in common.
int64_t NumSharedBlocks(const GenerationRequest& request) {
  return NumSharedTokens(request) / kKvBlockTokens;
}

}  // namespace

// In the queue's order: who waits for credits holds back all later ones, so that a long prompt is
// not passed over for ever. Who waits for a worker to come back holds back nobody.
void Scheduler::DispatchWaiting(absl::Time now) {
  while (const std::optional<int64_t> next = queue_.Next()) {
    RoutedSequence* sequence = Find(*next);
    if (FailedAtDeadline(sequence, now) || ParkedForReader(sequence)) continue;
    const Placement placement = Place(*sequence);
    if (!placement.any_eligible) {
      queue_.SetAside(*next);
      continue;
    }
    if (!placement.any_can_hold) {
      Fail(sequence, absl::InvalidArgumentError(absl::StrCat(
                         sequence->num_tokens(),
                         " tokens of prompt and answer, more than any attention worker holds")));
      continue;
    }
    if (!placement.worker_index) return MakeRoom(*sequence);
    StartOn(*placement.worker_index, sequence, now);
  }
}

bool Scheduler::ParkedForReader(RoutedSequence* sequence) {
  if (sequence->sink->OnStarting() != SinkState::kIsFull) return false;
  queue_.Remove(sequence->arrival_order);
  SetState(sequence, SequenceState::kParked);
  ReleaseUnwanted(*sequence->group);
  return true;
}

int64_t Scheduler::TokensToHold(const RoutedSequence& sequence) const {
  const int64_t whole = MaxTotalTokens(sequence);
  if (sequence.was_started) return whole;
  int64_t most = 0;
  for (const WorkerState& worker : workers_) {
    if (worker.is_ready()) most = std::max(most, worker.limits.max_sequence_tokens());
  }
  if (whole <= most) return whole;
  return most > sequence.num_tokens() ? sequence.num_tokens() + 1 : sequence.num_tokens();
}

Placement Scheduler::Place(const RoutedSequence& sequence) const {
  std::vector<PlacementCandidate> candidates(workers_.size());
  const int64_t reach = TokensToHold(sequence);
  for (size_t i = 0; i < workers_.size(); ++i) {
    const WorkerState& worker = workers_[i];
    if (!worker.is_ready()) continue;
    candidates[i] = {
        .is_eligible = IsEligible(sequence, worker, reach),
        .can_hold = reach <= worker.limits.max_sequence_tokens(),
        .has_credits = worker.ledger.CanStart(BlocksToStart(static_cast<int>(i), sequence)),
        .outstanding_tokens = worker.outstanding_tokens,
    };
  }
  return ChooseWorker(candidates, PreferredWorker(sequence));
}

bool Scheduler::AnyEligible(const RoutedSequence& sequence) const {
  const int64_t reach = TokensToHold(sequence);
  return std::any_of(workers_.begin(), workers_.end(), [&](const WorkerState& worker) {
    return worker.is_ready() && IsEligible(sequence, worker, reach);
  });
}

bool Scheduler::IsEligible(const RoutedSequence& sequence, const WorkerState& worker,
                           int64_t reach) const {
  const bool same_identity = !sequence.identity || *sequence.identity == worker.identity;
  return same_identity && (reach <= worker.limits.max_sequence_tokens() || !sequence.was_started);
}

std::optional<int> Scheduler::PreferredWorker(const RoutedSequence& sequence) const {
  // Where the prompt may be kept, then where the session was.
  const SampleGroup& group = *sequence.group;
  if (group.was_started()) {
    const WorkerState& last = workers_[static_cast<size_t>(group.last_worker)];
    if (last.prompts.contains(group.id)) return group.last_worker;
  }
  const std::optional<int> worker = sessions_.Find(sequence.request->session_id);
  return worker && *worker < num_workers() ? worker : std::nullopt;
}

// On the worker that has to drop the fewest.
void Scheduler::MakeRoom(const RoutedSequence& sequence) {
  const int64_t reach = TokensToHold(sequence);
  std::optional<std::vector<int64_t>> fewest;
  int chosen = -1;
  for (int i = 0; i < num_workers(); ++i) {
    const WorkerState& worker = workers_[static_cast<size_t>(i)];
    if (!worker.is_ready() || reach > worker.limits.max_sequence_tokens()) continue;
    std::optional<std::vector<int64_t>> victims = VictimsOn(i, sequence);
    if (!victims || (fewest && fewest->size() <= victims->size())) continue;
    fewest = std::move(victims);
    chosen = i;
  }
  if (!fewest) return;
  for (const int64_t id : *fewest) {
    if (id < 0) {
      DropPrompt(chosen, -id);
      continue;
    }
    FindRunning(chosen, id)->is_being_preempted = true;
    commands_->Send(chosen, PreemptCommand{.sequence_id = id});
  }
}

// The next sample that is started there begins the group anew.
void Scheduler::DropPrompt(int worker_index, int64_t group_id) {
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  const auto prompt = worker.prompts.find(group_id);
  const int64_t shared = NumSharedBlocks(*prompt->second.group->request);
  const bool is_shared =
      std::any_of(worker.running.begin(), worker.running.end(),
                  [&](const auto& entry) { return entry.second->group->id == group_id; });
  ++worker.dropped.slots;
  worker.dropped.kv_blocks += is_shared ? 0 : shared;
  // Of the next step the worker may have told already when it hears of this.
  worker.steps_until_dropped = 2;
  worker.prompts.erase(prompt);
  commands_->Send(worker_index, ReleasePromptCommand{.prompt_group = group_id});
}

std::optional<std::vector<int64_t>> Scheduler::VictimsOn(int worker_index,
                                                         const RoutedSequence& sequence) const {
  const WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  return ChooseVictims(
      sequence.request->priority,
      HeadStart(sequence.arrival_time, sequence.request->priority, options_.priority_ageing),
      {.slots = 1, .kv_blocks = BlocksToStart(worker_index, sequence)},
      {.slots = worker.ledger.available_slots() + worker.dropped.slots,
       .kv_blocks = worker.ledger.available_kv_blocks() + worker.dropped.kv_blocks},
      CandidatesOn(worker_index, sequence));
}

// What samples share is given back with the oldest, which goes last; a kept prompt goes before
// them.
std::vector<PreemptionCandidate> Scheduler::CandidatesOn(int worker_index,
                                                         const RoutedSequence& sequence) const {
  const WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  const auto head_start = [this](const SampleGroup& group) {
    return HeadStart(group.arrival_time, group.request->priority, options_.priority_ageing);
  };
  absl::flat_hash_map<const SampleGroup*, int64_t> oldest;
  for (const auto& [id, other] : worker.running) {
    if (!other->shares_prompt) continue;
    int64_t& order = oldest.try_emplace(other->group.get(), other->arrival_order).first->second;
    order = std::min(order, other->arrival_order);
  }
  std::vector<PreemptionCandidate> candidates;
  for (const auto& [group_id, prompt] : worker.prompts) {
    const SampleGroup& group = *prompt.group;
    if (!prompt.is_kept || &group == sequence.group.get()) continue;
    const int64_t shared = NumSharedBlocks(*group.request);
    candidates.push_back({.id = -group_id,
                          .priority = group.request->priority,
                          .head_start = head_start(group),
                          .arrival_order = group_id + group.num_samples,
                          .kv_blocks = oldest.contains(&group) ? 0 : shared});
  }
  for (const auto& [id, other] : worker.running) {
    const auto found = oldest.find(other->group.get());
    const bool leaves_shared = other->shares_prompt && found->second != other->arrival_order;
    const int64_t shared = NumSharedBlocks(*other->request);
    candidates.push_back(
        {.id = id,
         .priority = other->request->priority,
         .head_start = head_start(*other->group),
         .arrival_order = other->arrival_order,
         .kv_blocks = KvBlocksToStart(other->num_tokens(), worker.limits.kv_blocks) -
                      (leaves_shared ? shared : 0),
         .is_being_preempted = other->is_being_preempted});
  }
  return candidates;
}

int64_t Scheduler::BlocksToStart(int worker_index, const RoutedSequence& sequence) const {
  const WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  const int64_t num_blocks = KvBlocksToStart(sequence.num_start_tokens(), worker.limits.kv_blocks);
  if (!worker.Keeps(*sequence.group) || !sequence.can_begin_shared()) return num_blocks;
  return num_blocks - NumSharedBlocks(*sequence.request);
}

void Scheduler::StartOn(int worker_index, RoutedSequence* sequence, absl::Time now) {
  WorkerState& worker = workers_[static_cast<size_t>(worker_index)];
  queue_.Remove(sequence->arrival_order);
  sessions_.Remember(sequence->request->session_id, worker_index);
  SampleGroup& group = *sequence->group;
  const bool is_first_start = !sequence->was_started;
  if (is_first_start) {
    sequence->was_started = true;
    if (--group.num_unstarted == 0) retry_advice_.OnDeparture(now);
    // The prompt of a request is served once.
    if (!group.was_started()) queue_.Charge(sequence->ticket(), sequence->num_tokens());
    const int64_t room =
        std::max<int64_t>(0, worker.limits.max_sequence_tokens() - sequence->num_tokens());
    sequence->max_new_tokens = static_cast<int32_t>(
        std::min<int64_t>(sequence->max_new_tokens, room + sequence->num_generated()));
    sequence->sink->OnStarted(now);
  }
  SetState(sequence, SequenceState::kRunning);
  sequence->worker_index = worker_index;
  sequence->worker_sequence_id = worker.next_sequence_id++;
  sequence->outstanding_tokens = MaxTotalTokens(*sequence);
  worker.outstanding_tokens += sequence->outstanding_tokens;
  worker.running.emplace(sequence->worker_sequence_id, sequence);
  worker.ledger.Start(BlocksToStart(worker_index, *sequence));
  // With those that come after it, or with what those before it have left.
  sequence->shares_prompt = group.num_samples > 1 && (group.num_open > group.num_running ||
                                                      worker.prompts.contains(group.id));
  if (sequence->shares_prompt) worker.prompts[group.id] = {.group = sequence->group};
  sequence->pause_at_generated_count = NextPause(*sequence);
  commands_->Send(worker_index, MakeStartCommand(*sequence));
  group.last_worker = worker_index;
  ReleaseUnwanted(group);
}

}  // namespace m1
