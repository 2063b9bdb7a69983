#include <limits>
#include <vector>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {
namespace {

std::vector<float> Softmax(const float* logits, int64_t n) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) max = logits[i] > max ? logits[i] : max;
  std::vector<float> p;
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    p.push_back(ExactExp(logits[i] - max));
    sum = sum + p.back();
  }
  for (float& value : p) value = value / sum;
  return p;
}

}  // namespace

// Ids are valid and distinct whatever the logits: NaN loses to every number before it.
void ReferenceTopKGate(ConstTensorView logits, TensorView ids, TensorView weights) {
  const int64_t k = ids.dim(1);
  for (int64_t row = 0; row < logits.dim(0); ++row) {
    const int64_t experts = logits.dim(1);
    const std::vector<float> p = Softmax(logits.data_as<float>() + row * experts, experts);
    std::vector<bool> taken(p.size());
    float total = 0.0f;
    for (int64_t rank = 0; rank < k; ++rank) {
      size_t best = p.size();
      for (size_t i = 0; i < p.size(); ++i) {
        if (!taken[i] && (best == p.size() || p[i] > p[best])) best = i;
      }
      taken[best] = true;
      ids.data_as<int32_t>()[row * k + rank] = static_cast<int32_t>(best);
      weights.data_as<float>()[row * k + rank] = p[best];
      total = total + p[best];
    }
    for (int64_t rank = 0; rank < k; ++rank) {
      float& weight = weights.data_as<float>()[row * k + rank];
      weight = weight / total;
    }
  }
}

}  // namespace m1
