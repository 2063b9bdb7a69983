// What runs in the next step and who keeps memory. Plain code: no threads, no time, no tensors;
// tests drive it directly.
//
// A sequence waits until it gets a state slot and KV blocks for its tokens and one chunk more; then
// it is resident until it is removed or preempted. A step takes one row of every sequence that
// decodes (those that waited longest first when the budget is short), then prefill chunks of as
// many rows as StepBudget allows: higher priorities first; within one the oldest prompt has half,
// so that it comes to its end, and the other half goes to the shortest, so that they need not wait
// for it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "attention_worker/lease_pool.h"
#include "attention_worker/logit_editor.h"
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

// Sequences are named by whoever sent them.
struct SequenceKey {
  int64_t client_id = 0;
  int64_t sequence_id = 0;

  friend auto operator<=>(const SequenceKey&, const SequenceKey&) = default;
};

enum class SequencePhase : uint8_t { kWaiting, kResident, kPaused };

// A sequence on this worker. Owned by the StepPolicy; the engine advances it.
struct Sequence {
  SequenceKey key;
  SequenceStart start;               // its token_ids have moved to `tokens`
  std::vector<int32_t> tokens;       // known so far
  int64_t num_computed = 0;          // of them, in the memory of the layers
  int64_t next_generated_index = 0;  // first generated token that was not reported yet
  int64_t next_prompt_index = 0;     // first prompt token whose logprob was not reported yet
  int64_t first_counted_index = 0;   // tokens from here on are counted in repetition_run
  int32_t repetition_run = 0;        // of tokens in a row above the rule's logprob, the newest last
  int32_t pause_at_generated_count = 0;
  SequencePhase phase = SequencePhase::kWaiting;
  int64_t last_step = 0;                // in which it had rows
  std::optional<FinishedSequence> end;  // set while its step is still running
  // Its resume point is its end, but its prompt is still to be scored.
  std::optional<FinishedSequence> end_when_scored;
  std::optional<LogitEditor> editor;  // from the first draw on
  Lease slot;
  Lease blocks;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_pending() const { return num_tokens() - num_computed; }
  int64_t num_generated() const { return num_tokens() - start.first_generated_index(); }
  bool decodes() const { return num_computed > 0 && num_pending() == 1; }
  bool holds_memory() const { return slot.size() > 0; }
  int32_t state_slot() const { return slot.ids()[0]; }
  // Takes tokens as if generated: up to the first that ends the answer, and as many as may come.
  void Feed(std::span<const int32_t> token_ids);
  bool wants_prompt_token(int64_t token_index) const {
    return start.prompt_logprobs && token_index >= next_prompt_index;
  }
  // Whether the token at this index is a stop token where such a one ends the answer.
  bool ends_at(int64_t token_index) const {
    return token_index >= start.first_generated_index() + int64_t{start.min_new_tokens} &&
           start.IsStopToken(tokens[static_cast<size_t>(token_index)]);
  }
  // The token at this index, which follows the one of the last call, has this logprob.
  void CountForRepetition(int64_t token_index, float logprob);
  bool repeats_too_long() const {
    return start.max_repetition_run > 0 && repetition_run >= start.max_repetition_run;
  }
  // Ends a pause, or moves one that is ahead.
  void Resume(int32_t next_pause) {
    pause_at_generated_count = next_pause;
    phase = holds_memory() ? SequencePhase::kResident : SequencePhase::kWaiting;
  }
};

// The next `num_rows` tokens of a sequence.
struct PlannedRows {
  Sequence* sequence = nullptr;
  int64_t num_rows = 0;
};

struct StepPlan {
  std::vector<Sequence*> admitted;     // their memory is new: reset it
  std::vector<SequenceKey> preempted;  // removed already
  std::vector<PlannedRows> rows;       // decode first; empty: nothing can run
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
  // Free places less what waiting sequences will take; never negative.
  int64_t num_grantable_slots() const;
  int64_t num_grantable_blocks() const;

 private:
  std::vector<Sequence*> InPhase(SequencePhase phase);
  void Admit(StepPlan& plan);
  void GrowLeases(StepPlan& plan);
  // Removes the most junior holder; false when that was `needy` itself.
  bool PreemptFor(const Sequence& needy, StepPlan& plan);
  void TakeDecodeRows(StepPlan& plan);
  void TakePrefillRows(StepPlan& plan);

  const StepLimits limits_;
  StepBudget budget_;
  LeasePool slots_;
  LeasePool blocks_;
  std::map<SequenceKey, std::unique_ptr<Sequence>> sequences_;  // after the pools: leases go first
  int64_t step_ = 0;
};

}  // namespace m1
