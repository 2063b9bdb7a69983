#include "attention_worker/running_sequence.h"

namespace m1 {

void Sequence::Feed(std::span<const int32_t> token_ids) {
  for (const int32_t id : token_ids) {
    if (num_generated() >= start.max_new_tokens) return;
    tokens.push_back(id);
    if (ends_at(num_tokens() - 1)) return;
  }
}

void Sequence::CountForRepetition(int64_t token_index, float logprob) {
  if (token_index < first_counted_index) return;
  const bool counts = static_cast<double>(logprob) > start.repetition_logprob;
  repetition_run = counts ? repetition_run + 1 : 0;
  // The resume point knows the run behind the prompt, which goes on from the prompt's.
  if (token_index + 1 == start.prompt_token_count) repetition_run += start.repetition_run;
}

}  // namespace m1
