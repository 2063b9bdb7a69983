// One checked request in plain C++: what the router knows of it once the protocol buffer is gone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace m1 {

// The default of stopping.max_new_tokens.
inline constexpr int32_t kDefaultMaxNewTokens = 40000;

struct RequestSampling {
  float temperature = 1.0F;                           // 0: greedy
  float top_p = 0.95F;                                // 1: off
  int32_t top_k = 0;                                  // 0: off
  float min_p = 0.0F;                                 // 0: off
  uint64_t seed = 0;                                  // the caller's, or drawn by the router
  float repetition_penalty = 1.0F;                    // 1: off
  float presence_penalty = 0.0F;                      // 0: off
  float frequency_penalty = 0.0F;                     // 0: off
  std::vector<std::pair<int32_t, float>> logit_bias;  // of different ids
};

// How long a thought may be.
struct ThinkingLimit {
  int32_t budget_tokens = 0;
  // Fed when so many reasoning tokens were generated and the thought is open. Budget 0: <think> is
  // part of it, and it begins the answer.
  std::vector<int32_t> closing_ids;
};

// So many tokens in a row, each with a logprob above the limit, end an answer.
struct RepetitionRule {
  int32_t max_run = 0;  // 0: off
  double logprob = 0.0;
};

// Every field is in its range; defaults are filled in.
struct GenerationRequest {
  std::string request_id;
  std::vector<int32_t> prompt_ids;  // at least one
  // The last of them that an earlier stream of this request generated: below the prompt's length.
  int32_t generated_prompt_token_count = 0;
  bool is_chat = false;        // the answer is taken apart into channels
  bool tools_enabled = false;  // chat with tools: tool calls are looked for
  RequestSampling sampling;
  // Both count generated_prompt_token_count in.
  int32_t max_new_tokens = kDefaultMaxNewTokens;  // not yet bounded by the context
  int32_t min_new_tokens = 0;                     // no stop ends the answer before
  std::vector<int32_t> stop_token_ids;  // the caller's, then EOS unless ignored; sorted, unique
  std::vector<int32_t> eos_token_ids;   // those of stop_token_ids that are the model's own
  std::vector<std::string> stop_strings;
  bool include_stop_text = false;         // the stop string that ends the answer is shown
  std::optional<ThinkingLimit> thinking;  // absent: thoughts are not bounded
  RepetitionRule repetition;              // the router's, the same for all requests
  int32_t candidate_count = 0;
  bool prompt_logprobs = false;
  bool prompt_token_ids = false;
  int32_t sample_count = 1;
  int32_t priority = 0;                                     // higher first
  std::string client;                                       // who asks, for fair shares
  std::string session_id;                                   // empty: none
  absl::Duration queue_timeout = absl::InfiniteDuration();  // longest wait for the first start
  absl::Time deadline = absl::InfiniteFuture();             // the client's
};

}  // namespace m1
