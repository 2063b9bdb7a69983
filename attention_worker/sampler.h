// From a row of logits to a token and to what is reported of a token. Pure functions of their
// arguments: the same row gives the same answer whatever else runs.
//
// Probabilities are p(v) = exp(l(v) - lse) with l(v) = logits[v] / temperature (temperature 1 when
// greedy), in fp32; lse is KernelBackend::LogSumExp of the row. Callers run with FTZ and DAZ.
#pragma once

#include <cstdint>
#include <span>

#include "attention_worker/sequence.h"

namespace m1 {

// The temperature by which logits are divided for logprobs: 1 when greedy.
inline float LogprobTemperature(const SamplingParams& sampling) {
  return sampling.temperature > 0.0F ? sampling.temperature : 1.0F;
}

// The token drawn at absolute `position` (the index it gets in prompt + answer).
// Greedy: the largest logit, ties to the lowest id. Otherwise top_k, then top_p (the fewest
// likeliest tokens that together reach top_p of what top_k left), then min_p (relative to the
// likeliest); ties go to the lower id. One Philox number inverts the cumulative distribution over
// what is left, in order of id, summed in double.
int32_t SampleToken(std::span<const float> logits, float lse, const SamplingParams& sampling,
                    int64_t position);

// logprob, rank (ties go to the lower id) and the `candidate_count` likeliest tokens.
TokenScore ScoreToken(std::span<const float> logits, float lse, float temperature, int32_t id,
                      int32_t candidate_count);

}  // namespace m1
