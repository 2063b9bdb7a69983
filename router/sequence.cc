#include "router/sequence.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"

namespace m1 {

StartCommand MakeStartCommand(const RoutedSequence& sequence) {
  const GenerationRequest& request = *sequence.request;
  StartCommand start;
  start.sequence_id = sequence.worker_sequence_id;
  start.token_ids.reserve(static_cast<size_t>(sequence.num_tokens()));
  start.token_ids = request.prompt_ids;
  start.token_ids.insert(start.token_ids.end(), sequence.resume.emitted_ids.begin(),
                         sequence.resume.emitted_ids.end());
  start.prompt_token_count = static_cast<int32_t>(request.prompt_ids.size());
  start.generated_prompt_token_count = request.generated_prompt_token_count;
  start.sampling = request.sampling;
  start.sampling.seed = SampleSeed(request.sampling.seed, sequence.sample_index);
  start.max_new_tokens = sequence.max_new_tokens;
  start.min_new_tokens = request.min_new_tokens;
  start.stop_token_ids = request.stop_token_ids;
  start.repetition = request.repetition;
  start.candidate_count = request.candidate_count;
  start.prompt_logprobs = request.prompt_logprobs && sequence.sample_index == 0;
  start.next_prompt_logprob_index = sequence.resume.next_prompt_logprob_index;
  start.priority = request.priority;
  start.arrival_order = sequence.arrival_order;
  start.repetition_run = sequence.resume.repetition_run;
  if (sequence.thinking) {
    const std::span<const int32_t> fed = sequence.thinking->ids_to_feed();
    start.fed_token_ids.assign(fed.begin(), fed.end());
  }
  start.pause_at_generated_count = sequence.pause_at_generated_count;
  if (sequence.shares_prompt) start.prompt_group = sequence.group->id;
  return start;
}

int32_t NextPause(const RoutedSequence& sequence) {
  if (!sequence.thinking) return 0;
  const std::optional<int64_t> pause = sequence.thinking->pause_at();
  // The answer may be over before.
  return pause && *pause < sequence.max_new_tokens ? static_cast<int32_t>(*pause) : 0;
}

absl::Status RecordTokens(const std::vector<AnswerToken>& tokens, RoutedSequence* sequence) {
  ResumePoint& resume = sequence->resume;
  for (const AnswerToken& token : tokens) {
    resume.emitted_ids.push_back(token.id);
    const bool counts = static_cast<double>(token.logprob) > sequence->request->repetition.logprob;
    resume.repetition_run = counts ? resume.repetition_run + 1 : 0;
    if (sequence->thinking && !sequence->thinking->Record(token.id)) {
      return absl::InternalError(absl::StrCat("the worker reported token ", token.id, " as number ",
                                              sequence->num_generated(),
                                              " of the answer, where another one was fed"));
    }
  }
  return absl::OkStatus();
}

std::optional<AnswerEnd> EndOfAnswer(const RoutedSequence& sequence) {
  const GenerationRequest& request = *sequence.request;
  const ResumePoint& resume = sequence.resume;
  if (resume.emitted_ids.empty()) return std::nullopt;
  const std::vector<int32_t>& stops = request.stop_token_ids;
  if (sequence.num_generated() > request.min_new_tokens &&
      std::binary_search(stops.begin(), stops.end(), resume.emitted_ids.back())) {
    return AnswerEnd::kStopToken;
  }
  if (request.repetition.max_run > 0 && resume.repetition_run >= request.repetition.max_run) {
    return AnswerEnd::kRepetition;
  }
  if (sequence.num_remaining() <= 0) return AnswerEnd::kLength;
  return std::nullopt;
}

}  // namespace m1
