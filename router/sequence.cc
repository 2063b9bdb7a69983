#include "router/sequence.h"

#include <cmath>

namespace m1 {

StartCommand MakeStartCommand(const RoutedSequence& sequence) {
  const GenerationRequest& request = sequence.request;
  StartCommand start;
  start.sequence_id = sequence.worker_sequence_id;
  start.token_ids.reserve(static_cast<size_t>(sequence.num_tokens()));
  start.token_ids = request.prompt_ids;
  start.token_ids.insert(start.token_ids.end(), sequence.resume.emitted_ids.begin(),
                         sequence.resume.emitted_ids.end());
  start.prompt_token_count = static_cast<int32_t>(request.prompt_ids.size());
  start.sampling = request.sampling;
  start.max_new_tokens = sequence.max_new_tokens;
  start.stop_token_ids = request.stop_token_ids;
  start.candidate_count = request.candidate_count;
  start.prompt_logprobs = request.prompt_logprobs;
  start.next_prompt_logprob_index = sequence.resume.next_prompt_logprob_index;
  start.arrival_order = sequence.arrival_order;
  start.repetition_run = sequence.resume.repetition_run;
  return start;
}

void RecordTokens(const std::vector<AnswerToken>& tokens, RoutedSequence* sequence) {
  ResumePoint& resume = sequence->resume;
  for (const AnswerToken& token : tokens) {
    resume.emitted_ids.push_back(token.id);
    const bool is_certain = std::exp(static_cast<double>(token.logprob)) > kRepetitionProbability;
    resume.repetition_run = is_certain ? resume.repetition_run + 1 : 0;
  }
}

}  // namespace m1
