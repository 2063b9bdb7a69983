#include <algorithm>
#include <numeric>

#include "common/kernels/reference/sampling_ops.h"

namespace m1 {

TokenScore ReferenceScoreToken(std::span<const float> logits, const ScoreRequest& request) {
  std::vector<int32_t> ranking(logits.size());
  std::iota(ranking.begin(), ranking.end(), 0);
  const auto logit_of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::sort(ranking.begin(), ranking.end(), [&](int32_t a, int32_t b) {
    return logit_of(a) != logit_of(b) ? logit_of(a) > logit_of(b) : a < b;
  });
  const auto logprob_of = [&](int32_t id) {
    return logit_of(id) / request.temperature - request.lse;
  };
  const auto place = std::find(ranking.begin(), ranking.end(), request.id);
  TokenScore score{.id = request.id,
                   .logprob = logprob_of(request.id),
                   .rank = static_cast<int32_t>(place - ranking.begin()) + 1};
  const auto count = std::min(static_cast<size_t>(request.candidate_count), ranking.size());
  for (size_t i = 0; i < count; ++i) {
    score.candidates.push_back({ranking[i], logprob_of(ranking[i])});
  }
  return score;
}

}  // namespace m1
