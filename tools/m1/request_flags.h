// Flags of one generation, shared by `m1 generate` and `m1 chat`; absent flags leave the server's defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "m1/v1/inference.pb.h"
#include "tools/m1/flag_set.h"

namespace m1 {

class RequestFlags {
 public:
  // Declares the flags; `this` must outlive the set.
  void Register(FlagSet* flags);
  // Everything but the prompt. Errors: InvalidArgument naming the flag.
  absl::Status Fill(v1::GenerateRequest* request) const;
  // Tools of --tools, a JSON file [{"name", "description", "parameters"}]; none without the flag.
  absl::Status FillTools(v1::Chat* chat) const;

 private:
  std::optional<float> temperature_;
  std::optional<float> top_p_;
  std::optional<int32_t> top_k_;
  std::optional<float> min_p_;
  std::optional<float> repetition_penalty_;
  std::optional<float> presence_penalty_;
  std::optional<float> frequency_penalty_;
  std::optional<uint64_t> seed_;
  std::optional<int32_t> sample_count_;
  std::string logit_bias_;
  std::optional<int32_t> max_new_tokens_;
  std::optional<int32_t> min_new_tokens_;
  std::vector<std::string> stop_strings_;
  std::string stop_token_ids_;
  bool ignore_eos_ = false;
  bool include_stop_text_ = false;
  std::optional<int32_t> thinking_budget_;
  std::optional<std::string> closing_text_;
  std::optional<int32_t> candidate_count_;
  bool prompt_logprobs_ = false;
  bool prompt_token_ids_ = false;
  std::optional<int32_t> priority_;
  std::optional<absl::Duration> queue_timeout_;
  std::optional<std::string> session_id_;
  std::optional<int32_t> generated_prompt_token_count_;
  std::optional<std::string> request_id_;
  std::string tools_file_;
};

// "1,2,3" -> ids. Errors: InvalidArgument naming `flag`.
absl::Status ParseIds(absl::string_view flag, absl::string_view text, std::vector<int32_t>* ids);

}  // namespace m1
