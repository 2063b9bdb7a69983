// What the suites of one answer ask a whole model of 32 experts, and how it runs.
#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/local_model.h"

namespace m1 {

// Experts begin, begin + 1, ... below end.
inline std::vector<int32_t> Range(int32_t begin, int32_t end) {
  std::vector<int32_t> ids(static_cast<size_t>(end - begin));
  std::iota(ids.begin(), ids.end(), begin);
  return ids;
}

// bf16, the best instruction set, one expert worker.
inline LocalModelOptions OneWorkerOptions() {
  LocalModelOptions options;
  options.activation_dtype = DType::kBf16;
  options.target = "";
  options.shards = {Range(0, 32)};
  return options;
}

// A prompt of random ids; each third request also wants its logprobs.
inline SequenceStart RandomStart(std::mt19937& random, int32_t length, size_t request) {
  SequenceStart start;
  for (int32_t i = 0; i < length; ++i) {
    start.token_ids.push_back(static_cast<int32_t>(random() % 512));
  }
  start.prompt_token_count = length;
  start.candidate_count = 2;
  start.prompt_logprobs = request % 3 == 0;
  start.sampling.seed = request;
  start.sampling.temperature = request % 2 == 0 ? 0.0F : 1.0F;
  return start;
}

// Penalties, bias, mask and truncation in turns.
inline void SetSampling(size_t request, SequenceStart& start) {
  SamplingParams& sampling = start.sampling;
  sampling.top_p = request % 4 == 1 ? 0.95F : 1.0F;
  sampling.top_k = request % 8 == 7 ? 40 : 0;
  sampling.min_p = request % 8 == 5 ? 0.05F : 0.0F;
  if (request % 3 == 0) {
    sampling.repetition_penalty = 1.2F;
    sampling.presence_penalty = 0.3F;
  }
  if (request % 5 == 0) {
    sampling.frequency_penalty = 0.4F;
    sampling.logit_bias = {{5, 3.0F}, {7, -100.0F}};
    start.stop_token_ids = {5, 11, 13};
    start.min_new_tokens = 15;
  }
}

}  // namespace m1
