#include "common/kernels/sampling.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace m1 {

float EditedLogit(float logit, const LogitEdit& edit) {
  constexpr float kMasked = -std::numeric_limits<float>::infinity();
  if (edit.offset == kMasked) return kMasked;
  const float penalised = logit > 0.0f ? logit / edit.penalty : logit * edit.penalty;
  return std::clamp(penalised + edit.offset, -kMaxEditedLogit, kMaxEditedLogit);
}

float WeightUnit(int64_t vocab) {
  return static_cast<float>(std::bit_ceil(static_cast<uint64_t>(vocab))) * 0x1p-53f;
}

}  // namespace m1
