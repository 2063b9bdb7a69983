// A sequence on this worker: what is known of it, how far it is computed, what it holds.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "attention_worker/lease_pool.h"
#include "attention_worker/logit_editor.h"
#include "attention_worker/prompt_groups.h"
#include "attention_worker/sequence.h"

namespace m1 {

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
  int64_t last_step = 0;      // in which it had rows
  int64_t shared_tokens = 0;  // its group's: a step ends where they do, to keep the state; 0: none
  std::optional<FinishedSequence> end;  // set while its step is still running
  // Its resume point is its end, but its prompt is still to be scored.
  std::optional<FinishedSequence> end_when_scored;
  std::optional<LogitEditor> editor;  // from the first draw on
  Lease slot;
  Lease blocks;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_pending() const { return num_tokens() - num_computed; }
  int64_t num_generated() const { return num_tokens() - start.first_generated_index(); }
  // Rows up to where a step must end.
  int64_t num_wanted_rows() const {
    return num_computed < shared_tokens ? shared_tokens - num_computed : num_pending();
  }
  // Whether it can begin at the end of the shared tokens: none of them is to be scored.
  bool can_begin_shared() const {
    return shared_tokens > 0 && next_prompt_index > shared_tokens && num_computed == 0;
  }
  PromptGroupKey group_key() const { return {key.client_id, start.prompt_group}; }
  Seniority seniority() const { return {start.priority, start.arrival_order}; }
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

}  // namespace m1
