// What the passes over a row of the vocabulary take and give, as plain as kernel_args.h and for the
// same reason.
#pragma once

#include <stdint.h>

namespace m1 {

// Tokens of a row that weigh at least some floor. The weight is a sum of multiples of WeightUnit
// (common/kernels/sampling.h) and exact.
struct Tally {
  int64_t count;
  double weight;
};

// Elements over which BlockMaxima takes a maximum.
inline constexpr int64_t kMaximaBlock = 512;

struct DrawWeightsArgs {
  const float* logits;  // [vocab]
  float* weights;       // [vocab]
  int64_t vocab;
  float temperature;
  float peak;  // the largest logit
  float unit;  // of the weights
};

}  // namespace m1
