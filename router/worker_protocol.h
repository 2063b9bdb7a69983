// What the router and an attention worker tell each other, in plain C++: the messages of
// proto/m1/v1/attention.proto as the policy sees them. worker_stream_messages.h
// converts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "router/request.h"

namespace m1 {

struct AnswerCandidate {
  int32_t id = 0;
  float logprob = 0.0F;
};

struct AnswerToken {
  int32_t id = 0;
  float logprob = 0.0F;
  int32_t rank = 0;
  std::vector<AnswerCandidate> candidates;
};

// Two workers may replay each other's sequences exactly if their identities are equal.
struct FleetIdentity {
  std::string fingerprint;
  std::string weight_format;
  std::string activation_dtype;
  std::string device_kind;
  int32_t numerics_revision = 0;
  int32_t protocol_revision = 0;

  friend bool operator==(const FleetIdentity& a, const FleetIdentity& b) = default;
};

inline constexpr int64_t kKvBlockTokens = 64;

struct WorkerLimits {
  int32_t max_sequences = 0;
  int64_t kv_blocks = 0;
  int64_t max_context_tokens = 0;
  int32_t max_step_tokens = 0;

  // Tokens that one sequence can reach when it is alone.
  int64_t max_sequence_tokens() const {
    return std::min(max_context_tokens, kv_blocks * kKvBlockTokens);
  }
};

// See Credits in attention.proto.
struct WorkerCredits {
  int64_t handled_start_count = 0;
  int32_t state_slots = 0;
  int64_t kv_blocks = 0;
  bool ready = false;
};

// --- Commands ---

struct StartCommand {
  int64_t sequence_id = 0;
  std::vector<int32_t> token_ids;  // prompt, then what was generated already
  int32_t prompt_token_count = 0;
  int32_t generated_prompt_token_count = 0;
  RequestSampling sampling;
  int32_t max_new_tokens = 0;
  int32_t min_new_tokens = 0;
  std::vector<int32_t> stop_token_ids;
  RepetitionRule repetition;
  int32_t candidate_count = 0;
  bool prompt_logprobs = false;
  int32_t next_prompt_logprob_index = 0;
  int32_t priority = 0;
  int64_t arrival_order = 0;
  int32_t repetition_run = 0;
  std::vector<int32_t> fed_token_ids;    // taken at once, see TakeTokensCommand
  int32_t pause_at_generated_count = 0;  // 0: never
  int64_t prompt_group = 0;              // of samples with the same prompt; 0: alone
};

struct CancelCommand {
  int64_t sequence_id = 0;
};

// Drops the sequence, which is reported as preempted.
struct PreemptCommand {
  int64_t sequence_id = 0;
};

// Ends a pause, or moves one that is still ahead.
struct ContinueCommand {
  int64_t sequence_id = 0;
  int32_t pause_at_generated_count = 0;  // the next one
};

// Ends a pause with tokens that count as generated.
struct TakeTokensCommand {
  int64_t sequence_id = 0;
  std::vector<int32_t> token_ids;
  int32_t pause_at_generated_count = 0;  // the next one
};

// Nothing more of this prompt group is started on the worker.
struct ReleasePromptCommand {
  int64_t prompt_group = 0;
};

using WorkerCommand = std::variant<StartCommand, CancelCommand, PreemptCommand, ContinueCommand,
                                   TakeTokensCommand, ReleasePromptCommand>;

// --- Events ---

struct WorkerWelcome {
  FleetIdentity identity;
  WorkerLimits limits;
  WorkerCredits credits;
};

struct TokensEvent {
  int64_t sequence_id = 0;
  std::vector<AnswerToken> tokens;
};

struct PromptTokensEvent {
  int64_t sequence_id = 0;
  int32_t first_index = 0;
  std::vector<AnswerToken> tokens;
};

// Workers know no text: a stop string is the router's own end.
enum class AnswerEnd { kStopToken, kStopString, kRepetition, kLength, kCancelled, kError };

struct FinishedEvent {
  int64_t sequence_id = 0;
  AnswerEnd end = AnswerEnd::kError;
  int32_t stop_token_id = 0;   // kStopToken
  int32_t status_code = 0;     // kError: absl::StatusCode
  std::string status_message;  // kError
};

struct WorkerEvents {
  std::vector<TokensEvent> tokens;
  std::vector<PromptTokensEvent> prompt_tokens;
  std::vector<FinishedEvent> finished;
  std::vector<int64_t> preempted_sequence_ids;
  std::vector<int64_t> paused_sequence_ids;
  std::vector<int64_t> lost_prompt_groups;  // whose prompt is not kept any more
  WorkerCredits credits;
};

}  // namespace m1
