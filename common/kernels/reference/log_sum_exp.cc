#include <array>
#include <cmath>
#include <limits>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {
namespace {

float LogSumExpOf(const float* logits, int64_t vocab, float temperature) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t v = 0; v < vocab; ++v) {
    // The formula alone would give a finite lse where some logits are -inf.
    if (!std::isfinite(logits[v])) return std::numeric_limits<float>::quiet_NaN();
    const float quotient = logits[v] / temperature;
    max = quotient > max ? quotient : max;
  }
  std::array<float, 16> lanes{};
  for (int64_t v = 0; v < vocab; ++v) {
    float& lane = lanes[static_cast<size_t>(v % 16)];
    lane = lane + ExactExp(logits[v] / temperature - max);
  }
  return max + ExactLog(AddLanes(lanes));
}

}  // namespace

void ReferenceLogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                        std::span<float> lse) {
  const int64_t vocab = logits.dim(1);
  for (size_t row = 0; row < lse.size(); ++row) {
    lse[row] = LogSumExpOf(logits.data_as<float>() + static_cast<int64_t>(row) * vocab, vocab,
                           temperatures[row]);
  }
}

}  // namespace m1
