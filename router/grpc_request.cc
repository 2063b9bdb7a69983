#include "router/grpc_request.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/text/output_parser.h"

namespace m1 {
namespace {

constexpr float kMinTemperature = 1e-4F;
constexpr float kMaxTemperature = 100.0F;
constexpr float kMaxRepetitionPenalty = 10.0F;
constexpr float kMaxPenalty = 10.0F;
constexpr int kMaxSampleCount = 64;
constexpr int kMaxLogitBiasEntries = 1024;
constexpr float kMaxLogitBias = 100.0F;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 1024;
constexpr int kMaxStopTokenIds = 128;
constexpr int kMaxCandidates = 20;
constexpr size_t kMaxClosingTextBytes = 4096;
constexpr size_t kMaxIdBytes = 128;
constexpr int kMaxPriority = 100;
constexpr absl::string_view kDefaultClosingText = "\n</think>\n\n";
// Limits of google.protobuf.Duration.
constexpr int64_t kMaxDurationSeconds = 315576000000;
constexpr int32_t kNanosPerSecond = 1000000000;

bool InRange(float value, float low, float high) { return value >= low && value <= high; }

void CheckName(const std::string& name, const char* field, Violations* violations) {
  violations->Require(!name.empty() && name.size() <= kMaxIdBytes, absl::StrCat(field),
                      absl::StrCat(name.size(), " bytes long"), "1..128 bytes of printable ASCII");
  const bool is_printable =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
  if (!is_printable) violations->Add(field, "holds a character that is not printable ASCII");
}

void CheckSampling(const v1::Sampling& sampling, int32_t vocab_size, Violations* violations) {
  if (sampling.has_temperature()) {
    const float value = sampling.temperature();
    violations->Require(value == 0.0F || InRange(value, kMinTemperature, kMaxTemperature),
                        "sampling.temperature", value, "0 or 1e-4..100");
  }
  if (sampling.has_top_p()) {
    violations->Require(sampling.top_p() > 0.0F && sampling.top_p() <= 1.0F, "sampling.top_p",
                        sampling.top_p(), "in (0, 1]");
  }
  violations->Require(sampling.top_k() >= 0, "sampling.top_k", sampling.top_k(), ">= 0 (0 is off)");
  violations->Require(InRange(sampling.min_p(), 0.0F, 1.0F), "sampling.min_p", sampling.min_p(),
                      "0..1");
  if (sampling.has_repetition_penalty()) {
    const float value = sampling.repetition_penalty();
    violations->Require(value > 0.0F && value <= kMaxRepetitionPenalty,
                        "sampling.repetition_penalty", value, "in (0, 10]");
  }
  violations->Require(InRange(sampling.presence_penalty(), -kMaxPenalty, kMaxPenalty),
                      "sampling.presence_penalty", sampling.presence_penalty(), "-10..10");
  violations->Require(InRange(sampling.frequency_penalty(), -kMaxPenalty, kMaxPenalty),
                      "sampling.frequency_penalty", sampling.frequency_penalty(), "-10..10");
  if (sampling.has_sample_count()) {
    violations->Require(sampling.sample_count() >= 1 && sampling.sample_count() <= kMaxSampleCount,
                        "sampling.sample_count", sampling.sample_count(), "1..64");
  }
  violations->Require(sampling.logit_bias_size() <= kMaxLogitBiasEntries, "sampling.logit_bias",
                      absl::StrCat(sampling.logit_bias_size(), " entries"), "at most 1024");
  for (const auto& entry : sampling.logit_bias()) {
    const std::string field = absl::StrCat("sampling.logit_bias[", entry.first, "]");
    violations->Require(entry.first >= 0 && entry.first < vocab_size, field,
                        absl::StrCat("for id ", entry.first),
                        absl::StrCat("for ids in [0, ", vocab_size, ")"));
    violations->Require(InRange(entry.second, -kMaxLogitBias, kMaxLogitBias), field, entry.second,
                        "-100..100");
  }
}

void CheckStopping(const v1::Stopping& stopping, int32_t vocab_size, Violations* violations) {
  const int32_t max_new_tokens =
      stopping.has_max_new_tokens() ? stopping.max_new_tokens() : kDefaultMaxNewTokens;
  violations->Require(max_new_tokens >= 0, "stopping.max_new_tokens", max_new_tokens, ">= 0");
  violations->Require(
      stopping.min_new_tokens() >= 0 && stopping.min_new_tokens() <= std::max(0, max_new_tokens),
      "stopping.min_new_tokens", stopping.min_new_tokens(),
      absl::StrCat("0..max_new_tokens (", max_new_tokens, ")"));
  violations->Require(stopping.stop_strings_size() <= kMaxStopStrings, "stopping.stop_strings",
                      absl::StrCat(stopping.stop_strings_size(), " strings"), "at most 16");
  for (int i = 0; i < stopping.stop_strings_size() && !violations->full(); ++i) {
    const size_t size = stopping.stop_strings(i).size();
    violations->Require(size >= 1 && size <= kMaxStopStringBytes,
                        absl::StrCat("stopping.stop_strings[", i, "]"),
                        absl::StrCat(size, " bytes long"), "1..1024 bytes");
  }
  violations->Require(stopping.stop_token_ids_size() <= kMaxStopTokenIds, "stopping.stop_token_ids",
                      absl::StrCat(stopping.stop_token_ids_size(), " ids"), "at most 128");
  CheckIds(stopping.stop_token_ids(), "stopping.stop_token_ids", vocab_size, violations);
}

void CheckQueueTimeout(const google::protobuf::Duration& timeout, Violations* violations) {
  const bool is_duration = timeout.seconds() >= -kMaxDurationSeconds &&
                           timeout.seconds() <= kMaxDurationSeconds &&
                           timeout.nanos() > -kNanosPerSecond && timeout.nanos() < kNanosPerSecond;
  const bool is_positive = timeout.seconds() >= 0 && timeout.nanos() >= 0 &&
                           (timeout.seconds() > 0 || timeout.nanos() > 0);
  violations->Require(is_duration && is_positive, "queue_timeout",
                      absl::StrCat(timeout.seconds(), " s and ", timeout.nanos(), " ns"),
                      "a duration above zero");
}

void CheckGeneratedPromptTokens(const v1::GenerateRequest& request, Violations* violations) {
  const int32_t count = request.generated_prompt_token_count();
  if (count == 0) return;
  if (!request.has_token_ids()) {
    violations->Add("generated_prompt_token_count",
                    absl::StrCat("is ", count, ", must be 0 unless the prompt is token_ids"));
    return;
  }
  const int num_ids = request.token_ids().ids_size();
  violations->Require(count >= 0 && count < num_ids, "generated_prompt_token_count", count,
                      absl::StrCat("0 or more and below the prompt's ", num_ids, " tokens"));
}

}  // namespace

void CheckRanges(const v1::GenerateRequest& request, int32_t vocab_size, Violations* violations) {
  if (request.has_request_id()) CheckName(request.request_id(), "request_id", violations);
  if (request.prompt_case() == v1::GenerateRequest::PROMPT_NOT_SET) {
    violations->Add("prompt", "is absent, one of text, token_ids and chat must be set");
  }
  if (request.has_token_ids()) {
    CheckIds(request.token_ids().ids(), "token_ids.ids", vocab_size, violations);
  }
  CheckSampling(request.sampling(), vocab_size, violations);
  CheckStopping(request.stopping(), vocab_size, violations);
  violations->Require(request.thinking().budget_tokens() >= 0, "thinking.budget_tokens",
                      request.thinking().budget_tokens(), ">= 0");
  const size_t closing_size = request.thinking().closing_text().size();
  violations->Require(closing_size <= kMaxClosingTextBytes, "thinking.closing_text",
                      absl::StrCat(closing_size, " bytes long"), "at most 4096 bytes");
  const int32_t candidates = request.output().candidate_count();
  violations->Require(candidates >= 0 && candidates <= kMaxCandidates, "output.candidate_count",
                      candidates, "0..20");
  violations->Require(request.priority() >= -kMaxPriority && request.priority() <= kMaxPriority,
                      "priority", request.priority(), "-100..100");
  if (request.has_queue_timeout()) CheckQueueTimeout(request.queue_timeout(), violations);
  if (request.has_session_id()) CheckName(request.session_id(), "session_id", violations);
  CheckGeneratedPromptTokens(request, violations);
}

const char* PromptField(const v1::GenerateRequest& request) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return "text";
    case v1::GenerateRequest::kTokenIds:
      return "token_ids.ids";
    case v1::GenerateRequest::kChat:
      return "chat.messages";
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return "prompt";
}

std::string ClosingText(const v1::Thinking& thinking) {
  const absl::string_view text = thinking.has_closing_text()
                                     ? absl::string_view(thinking.closing_text())
                                     : kDefaultClosingText;
  return absl::StrCat(thinking.budget_tokens() == 0 ? kThinkOpen : "", text);
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

GenerationRequest ReadRequest(const v1::GenerateRequest& request,
                              const std::vector<int32_t>& eos_token_ids) {
  GenerationRequest read;
  read.request_id = request.request_id();
  read.generated_prompt_token_count = request.generated_prompt_token_count();
  read.is_chat = request.has_chat();
  read.tools_enabled = request.has_chat() && request.chat().tools_size() > 0;

  const v1::Sampling& sampling = request.sampling();
  if (sampling.has_temperature()) read.sampling.temperature = sampling.temperature();
  if (sampling.has_top_p()) read.sampling.top_p = sampling.top_p();
  read.sampling.top_k = sampling.top_k();
  read.sampling.min_p = sampling.min_p();
  read.sampling.seed = sampling.seed();
  if (sampling.has_sample_count()) read.sample_count = sampling.sample_count();
  if (sampling.has_repetition_penalty()) {
    read.sampling.repetition_penalty = sampling.repetition_penalty();
  }
  read.sampling.presence_penalty = sampling.presence_penalty();
  read.sampling.frequency_penalty = sampling.frequency_penalty();
  read.sampling.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());

  const v1::Stopping& stopping = request.stopping();
  if (stopping.has_max_new_tokens()) read.max_new_tokens = stopping.max_new_tokens();
  read.min_new_tokens = stopping.min_new_tokens();
  std::vector<int32_t>& stops = read.stop_token_ids;
  stops.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  if (!stopping.ignore_eos()) {
    for (int32_t id : eos_token_ids) {
      read.eos_token_ids.push_back(id);
      stops.push_back(id);
    }
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());

  read.stop_strings.assign(stopping.stop_strings().begin(), stopping.stop_strings().end());
  read.include_stop_text = stopping.include_stop_text();

  read.candidate_count = request.output().candidate_count();
  read.prompt_logprobs = request.output().prompt_logprobs();
  read.prompt_token_ids = request.output().prompt_token_ids();
  read.priority = request.priority();
  read.session_id = request.session_id();
  if (request.has_queue_timeout()) {
    read.queue_timeout = FromProto(request.queue_timeout());
  }
  return read;
}

}  // namespace m1
