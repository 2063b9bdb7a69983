// What an attention worker is told about a sequence and what it tells back, without gRPC. The
// messages of proto/m1/v1/attention.proto, which documents every field, in plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"

#include "common/kernels/sampling.h"

namespace m1 {

struct SamplingParams {
  float temperature = 1.0F;  // 0: greedy
  float top_p = 1.0F;
  int32_t top_k = 0;  // 0: off
  float min_p = 0.0F;
  uint64_t seed = 0;
  float repetition_penalty = 1.0F;  // 1: off
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // of different ids

  // Of the reported logprobs.
  float logprob_temperature() const { return temperature > 0.0F ? temperature : 1.0F; }
};

struct SequenceStart {
  int64_t sequence_id = 0;
  std::vector<int32_t> token_ids;  // prompt, then what was generated before a resume
  int32_t prompt_token_count = 0;
  int32_t generated_prompt_token_count = 0;  // the last of the prompt, which count as generated
  SamplingParams sampling;
  int32_t max_new_tokens = 0;
  int32_t min_new_tokens = 0;
  std::vector<int32_t> stop_token_ids;
  int32_t max_repetition_run = 0;  // 0: any number
  double repetition_logprob = 0.0;
  int32_t candidate_count = 0;
  bool prompt_logprobs = false;
  int32_t next_prompt_logprob_index = 0;
  int32_t priority = 0;
  int64_t arrival_order = 0;
  std::vector<int32_t> fed_token_ids;    // taken as if generated, before anything is
  int32_t repetition_run = 0;            // up to the last of token_ids, those of the prompt aside
  int32_t pause_at_generated_count = 0;  // 0: never
  int64_t prompt_group = 0;              // of sequences with the same prompt; 0: of none

  bool IsStopToken(int32_t id) const {
    return std::find(stop_token_ids.begin(), stop_token_ids.end(), id) != stop_token_ids.end();
  }
  // Where what counts as generated begins.
  int32_t first_generated_index() const {
    return prompt_token_count - generated_prompt_token_count;
  }
};

// Scores of consecutive tokens of one sequence. first_index counts from the first prompt token.
struct ScoredTokens {
  int64_t sequence_id = 0;
  int64_t first_index = 0;
  std::vector<TokenScore> tokens;
};

enum class SequenceEnd : uint8_t { kStopToken, kLength, kRepetition, kCancelled, kError };

struct FinishedSequence {
  int64_t sequence_id = 0;
  SequenceEnd end = SequenceEnd::kLength;
  int32_t stop_token_id = 0;  // with kStopToken
  absl::Status status = {};   // with kError
};

inline FinishedSequence FailedSequence(int64_t sequence_id, absl::Status status) {
  return {.sequence_id = sequence_id,
          .end = SequenceEnd::kError,
          .stop_token_id = 0,
          .status = std::move(status)};
}

struct Credits {
  int64_t handled_start_count = 0;
  int32_t state_slots = 0;
  int64_t kv_blocks = 0;
  bool ready = false;

  friend bool operator==(const Credits&, const Credits&) = default;
};

// What one step brought to one client.
struct StepEvents {
  std::vector<ScoredTokens> tokens;
  std::vector<ScoredTokens> prompt_tokens;
  std::vector<FinishedSequence> finished;
  std::vector<int64_t> preempted_sequence_ids;
  std::vector<int64_t> paused_sequence_ids;
  std::vector<int64_t> lost_prompt_groups;  // whose next sequence computes the prompt
  Credits credits;

  bool empty() const {
    return tokens.empty() && prompt_tokens.empty() && finished.empty() &&
           preempted_sequence_ids.empty() && paused_sequence_ids.empty() &&
           lost_prompt_groups.empty();
  }
};

}  // namespace m1
