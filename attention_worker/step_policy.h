// What runs in the next step and who keeps memory. Plain code: no threads, no time, no tensors;
// tests drive it directly.
//
// A sequence waits until it gets a state slot and KV blocks for its tokens and one chunk more; then
// it is resident until it is removed or preempted. A step takes one row of every sequence that
// decodes (those that waited longest first when the budget is short), then prefill chunks of as
// many rows as StepBudget allows: higher priorities first; within one the oldest prompt has half,
// so that it comes to its end, and the other half goes to the shortest, so that they need not wait
// for it.
//
// Of sequences that share a prompt (prompt_groups.h) one computes it; the others wait for that and
// begin at its end, if it could be kept. A kept prompt goes when a sequence that runs needs its
// memory to grow, for one that waits and is senior to it, and when nobody else will make room.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "attention_worker/lease_pool.h"
#include "attention_worker/prompt_groups.h"
#include "attention_worker/running_sequence.h"
#include "attention_worker/sequence.h"
#include "attention_worker/step_budget.h"
#include "common/kernels/backend.h"

namespace m1 {

// KV blocks that hold `num_tokens` tokens.
constexpr int64_t NumKvBlocks(int64_t num_tokens) {
  return (num_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

struct StepLimits {
  int32_t max_sequences = 0;
  int64_t kv_blocks = 0;
  int64_t max_context_tokens = 0;
  int32_t max_step_tokens = 0;
  int64_t max_replay_tokens = 0;  // longer sequences are preempted only when no shorter one is left
  absl::Duration target_itl = absl::InfiniteDuration();  // of a step that decodes and prefills
};

// The next `num_rows` tokens of a sequence.
struct PlannedRows {
  Sequence* sequence = nullptr;
  int64_t num_rows = 0;
};

// What makes a slot the memory of a sequence, or of a kept prompt: a copy, or else nothing.
struct SlotPreparation {
  int32_t slot = 0;
  std::optional<int32_t> from_slot = std::nullopt;  // absent: of an empty sequence
  // The KV block that is copied with it; absent: none.
  std::optional<int32_t> from_block = std::nullopt;
  int32_t to_block = 0;
};

struct StepPlan {
  std::vector<Sequence*> admitted;
  std::vector<SlotPreparation> preparations;  // in this order, before the rows
  std::vector<SequenceKey> preempted;         // removed already
  std::vector<PlannedRows> rows;              // decode first; empty: nothing can run
  int64_t num_decode_rows = 0;
  int64_t num_prefill_rows = 0;
};

class StepPolicy {
 public:
  explicit StepPolicy(const StepLimits& limits);

  // Errors: InvalidArgument for what this worker can never run, AlreadyExists, ResourceExhausted
  // when too many wait.
  absl::Status Add(const SequenceKey& key, SequenceStart start);
  Sequence* Find(const SequenceKey& key);  // null: unknown
  void Remove(const SequenceKey& key);     // gives its leases back
  // No more sequences of this group come: its prompt is kept for those that wait only.
  void ReleaseGroup(const PromptGroupKey& key);
  void RemoveClient(int64_t client_id);  // its sequences and groups
  // After a step: keeps the prompt's end for the rest of the group if that is where the sequence
  // is, somebody may want it and there is room. What is returned is to be copied before the next
  // step.
  std::optional<SlotPreparation> KeepPrompt(const Sequence& sequence);
  void DropKeptPrompts() { groups_.Clear(); }
  // Groups, not released, of which a sequence was added since they were last here, and whose prompt
  // is neither kept nor going to be: the next sequence will compute it.
  std::vector<PromptGroupKey> TakeLostPrompts();
  std::vector<SequenceKey> Keys() const;

  StepPlan Plan();
  // The step of this plan took so long.
  void RecordStep(const StepPlan& plan, absl::Duration elapsed) {
    budget_.Record(plan.num_decode_rows, plan.num_prefill_rows, elapsed);
  }

  const StepLimits& limits() const { return limits_; }
  int32_t num_waiting() const;
  int64_t num_used_slots() const { return slots_.capacity() - slots_.num_free(); }
  int64_t num_used_blocks() const { return blocks_.capacity() - blocks_.num_free(); }
  // Of a block in use, how many share it.
  int32_t num_block_holders(int32_t block) const { return blocks_.num_holders(block); }
  int64_t num_forks() const { return num_forks_; }  // so far
  int64_t num_kept_prompts() const { return groups_.num_kept(); }
  int64_t num_prompt_groups() const { return groups_.size(); }
  // Free places, less what waiting sequences will take; never negative. Those of kept prompts are
  // free when nobody else holds memory.
  int64_t num_grantable_slots() const;
  int64_t num_grantable_blocks() const;

 private:
  std::vector<Sequence*> InPhase(SequencePhase phase);
  // step_admission.cc
  void Admit(StepPlan& plan);
  bool TryAdmit(Sequence& sequence, StepPlan& plan);
  bool TryFork(Sequence& sequence, PromptGroup& group, StepPlan& plan);
  void BeginAtKept(Sequence& sequence, const KeptPrompt& kept, int64_t num_blocks, StepPlan& plan);
  // For a sequence that waits: drops kept prompts, but not that of `spared`, if that makes so much
  // free.
  bool MakeRoom(const Sequence& sequence, int64_t slots, int64_t blocks, const PromptGroup* spared);
  bool AnyHoldsMemory() const;
  bool AnyDecodes() const;
  void DropUnwantedPrompts();
  PromptGroup* UsableGroup(const Sequence& sequence);
  // Whether the sequence may have the memory of a kept prompt.
  static bool MayDisplace(const Sequence& sequence, const KeptPrompt& kept);
  // Any sequence of the group, for which `is_meant` holds.
  template <typename Predicate>
  bool AnyOf(const PromptGroupKey& key, const Predicate& is_meant) const;
  // Another one of the group, for which `is_meant` holds.
  template <typename Predicate>
  bool AnyOther(const Sequence& sequence, const Predicate& is_meant) const;
  int64_t BlocksToWaitFor(const Sequence& sequence) const;

  void GrowLeases(StepPlan& plan);
  // Removes the most junior holder; false when that was `needy` itself.
  bool PreemptFor(const Sequence& needy, StepPlan& plan);
  void TakeDecodeRows(StepPlan& plan);
  void TakePrefillRows(StepPlan& plan);

  const StepLimits limits_;
  StepBudget budget_;
  LeasePool slots_;
  LeasePool blocks_;
  PromptGroups groups_{&blocks_};                               // after the pools, too
  std::map<SequenceKey, std::unique_ptr<Sequence>> sequences_;  // after the pools: leases go first
  int64_t step_ = 0;
  int64_t num_forks_ = 0;
};

}  // namespace m1
