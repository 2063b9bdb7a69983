// Drawing a token from a row of logits, and scoring one: what KernelBackend::DrawTokens and
// ScoreTokens are given, and what they mean.
//
// A draw from logits l, which its edits have changed:
//   temperature 0: the largest l, ties to the lowest id.
//   Else token v weighs w(v) = exp(l(v) / temperature - max of l / temperature), rounded to the
//   nearest multiple of WeightUnit(vocab). Sums of weights are exact in double, so they do not
//   depend on their order. A token comes before another if its l is larger, then if its id is
//   lower; weights fall in that order, for exp is monotone. In turn
//     top_k > 0 leaves the first top_k tokens their weight and the others none;
//     top_p < 1 leaves it to the fewest first tokens that weigh top_p of all together;
//     min_p > 0 to those that weigh at least min_p (the first weighs 1).
//   Drawn is the first token in order of id whose weight and that of all lower ids together exceed
//   uniform * (weight of all).
//   When every token is masked it is token 0.
//
// The score of token t:
//   logprob = l(t) / temperature - lse, from logits without edits;
//   rank: 1 + tokens of larger l + tokens of lower id and equal l;
//   the candidate_count tokens of lowest rank with their logprobs, best first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace m1 {

// The logit l of token `id` becomes (l > 0 ? l / penalty : l * penalty) + offset, or the nearest of
// +-kMaxEditedLogit; -infinity with an offset of -infinity, which masks the token.
struct LogitEdit {
  int32_t id = 0;
  float penalty = 1.0f;  // > 0
  float offset = 0.0f;
};

// So that quotients by temperatures stay finite.
inline constexpr float kMaxEditedLogit = 1e30f;

float EditedLogit(float logit, const LogitEdit& edit);

struct TokenDraw {
  int64_t row = 0;
  std::span<const LogitEdit> edits = {};  // of different ids
  float temperature = 1.0f;               // 0: greedy
  int32_t top_k = 0;                      // 0: off
  float top_p = 1.0f;                     // (0, 1]; 1: off
  float min_p = 0.0f;                     // [0, 1]; 0: off
  double uniform = 0.0;                   // [0, 1)
};

// 2^-53 times the smallest power of two that is not below `vocab`.
float WeightUnit(int64_t vocab);

struct ScoreRequest {
  int64_t row = 0;
  int32_t id = 0;
  float temperature = 1.0f;  // > 0
  float lse = 0.0f;          // KernelBackend::LogSumExp of the row at this temperature
  int32_t candidate_count = 0;
};

struct TokenCandidate {
  int32_t id = 0;
  float logprob = 0.0f;
};

struct TokenScore {
  int32_t id = 0;
  float logprob = 0.0f;
  int32_t rank = 0;  // 0: unknown
  std::vector<TokenCandidate> candidates = {};
};

}  // namespace m1
