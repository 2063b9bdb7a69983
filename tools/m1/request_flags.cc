#include "tools/m1/request_flags.h"

#include <fstream>
#include <iterator>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

absl::Status ParseLogitBias(absl::string_view text, v1::Sampling* sampling) {
  for (absl::string_view entry : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(entry, absl::MaxSplits(':', 1));
    int32_t id = 0;
    float bias = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logit_bias has \"", entry, "\", wanted ID:BIAS"));
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseIds(absl::string_view flag, absl::string_view text, std::vector<int32_t>* ids) {
  for (absl::string_view entry : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(entry, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, " has \"", entry, "\", wanted token ids"));
    }
    ids->push_back(id);
  }
  return absl::OkStatus();
}

void RequestFlags::Register(FlagSet* flags) {
  flags->Int("max_new_tokens", &max_new_tokens_, "tokens to generate at most (40000)");
  flags->Int("min_new_tokens", &min_new_tokens_, "no end before so many (0)");
  flags->Float("temperature", &temperature_, "0: greedy, or 1e-4..100 (1)");
  flags->Float("top_p", &top_p_, "(0, 1] (0.95)");
  flags->Int("top_k", &top_k_, "0: off (0)");
  flags->Float("min_p", &min_p_, "0..1 (0)");
  flags->Uint64("seed", &seed_, "same seed, same answer (random)");
  flags->Int("sample_count", &sample_count_, "answers to one prompt, 1..64 (1)");
  flags->Float("repetition_penalty", &repetition_penalty_, "(0, 10] (1)");
  flags->Float("presence_penalty", &presence_penalty_, "-10..10 (0)");
  flags->Float("frequency_penalty", &frequency_penalty_, "-10..10 (0)");
  flags->String("logit_bias", &logit_bias_, "ID:BIAS,ID:BIAS to add to logits");
  flags->Strings("stop", &stop_strings_, "ends the answer; may be given 16 times");
  flags->String("stop_token_ids", &stop_token_ids_, "ids that end the answer: 1,2,3");
  flags->Bool("ignore_eos", &ignore_eos_, "the model's end token does not end the answer");
  flags->Bool("include_stop_text", &include_stop_text_, "keep the matched stop string");
  flags->Int("thinking_budget", &thinking_budget_, "tokens of thought at most (no bound)");
  flags->String("closing_text", &closing_text_, "what ends a thought over budget");
  flags->Int("candidate_count", &candidate_count_, "likeliest tokens to report, 0..20 (0)");
  flags->Bool("prompt_logprobs", &prompt_logprobs_, "report logprobs of the prompt");
  flags->Bool("prompt_token_ids", &prompt_token_ids_, "report ids of the prompt");
  flags->Int("priority", &priority_, "-100..100, higher first (0)");
  flags->Duration("queue_timeout", &queue_timeout_, "longest wait for a worker (no bound)");
  flags->String("session_id", &session_id_, "requests of one session prefer one worker");
  flags->Int("generated_prompt_token_count", &generated_prompt_token_count_,
             "ids at the end of --token_ids that a broken stream has brought (0)");
  flags->String("request_id", &request_id_, "name of the request, for Abort and logs");
  flags->String("tools", &tools_file_, "JSON file [{\"name\", \"description\", \"parameters\"}]");
}

absl::Status RequestFlags::Fill(v1::GenerateRequest* request) const {
  v1::Sampling* sampling = request->mutable_sampling();
  if (temperature_) sampling->set_temperature(*temperature_);
  if (top_p_) sampling->set_top_p(*top_p_);
  if (top_k_) sampling->set_top_k(*top_k_);
  if (min_p_) sampling->set_min_p(*min_p_);
  if (repetition_penalty_) sampling->set_repetition_penalty(*repetition_penalty_);
  if (presence_penalty_) sampling->set_presence_penalty(*presence_penalty_);
  if (frequency_penalty_) sampling->set_frequency_penalty(*frequency_penalty_);
  if (seed_) sampling->set_seed(*seed_);
  if (sample_count_) sampling->set_sample_count(*sample_count_);
  M1_RETURN_IF_ERROR(ParseLogitBias(logit_bias_, sampling));

  v1::Stopping* stopping = request->mutable_stopping();
  if (max_new_tokens_) stopping->set_max_new_tokens(*max_new_tokens_);
  if (min_new_tokens_) stopping->set_min_new_tokens(*min_new_tokens_);
  for (const std::string& text : stop_strings_) stopping->add_stop_strings(text);
  std::vector<int32_t> stop_ids;
  M1_RETURN_IF_ERROR(ParseIds("stop_token_ids", stop_token_ids_, &stop_ids));
  for (int32_t id : stop_ids) stopping->add_stop_token_ids(id);
  if (ignore_eos_) stopping->set_ignore_eos(true);
  if (include_stop_text_) stopping->set_include_stop_text(true);

  if (thinking_budget_) request->mutable_thinking()->set_budget_tokens(*thinking_budget_);
  if (closing_text_) request->mutable_thinking()->set_closing_text(*closing_text_);
  if (candidate_count_) request->mutable_output()->set_candidate_count(*candidate_count_);
  if (prompt_logprobs_) request->mutable_output()->set_prompt_logprobs(true);
  if (prompt_token_ids_) request->mutable_output()->set_prompt_token_ids(true);
  if (priority_) request->set_priority(*priority_);
  if (queue_timeout_) {
    const int64_t nanos = absl::ToInt64Nanoseconds(*queue_timeout_);
    request->mutable_queue_timeout()->set_seconds(nanos / 1'000'000'000);
    request->mutable_queue_timeout()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  }
  if (session_id_) request->set_session_id(*session_id_);
  if (generated_prompt_token_count_) {
    request->set_generated_prompt_token_count(*generated_prompt_token_count_);
  }
  if (request_id_) request->set_request_id(*request_id_);
  return absl::OkStatus();
}

absl::Status RequestFlags::FillTools(v1::Chat* chat) const {
  if (tools_file_.empty()) return absl::OkStatus();
  std::ifstream file(tools_file_);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--tools: cannot read ", tools_file_));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  // Keeps the order of keys: the model sees the schema as it was written.
  const nlohmann::ordered_json tools =
      nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!tools.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("--tools: ", tools_file_, " is not a JSON array"));
  }
  for (const nlohmann::ordered_json& entry : tools) {
    const auto name = entry.find("name");
    const auto description = entry.find("description");
    const auto parameters = entry.find("parameters");
    if (!entry.is_object() || name == entry.end() || !name->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tools: an entry of ", tools_file_, " has no \"name\""));
    }
    v1::Tool* tool = chat->add_tools();
    tool->set_name(name->get<std::string>());
    if (description != entry.end() && description->is_string()) {
      tool->set_description(description->get<std::string>());
    }
    tool->set_parameters_json(parameters == entry.end() ? "{}" : parameters->dump());
  }
  return absl::OkStatus();
}

}  // namespace m1
