// The rotary table of a step: the cos and sin that Rotary reads.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/check.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// cos, sin fp32 [positions.size(), inv_freq.size()]. The angle is the fp32 product that the model
// was trained with (off from exact by 0.035 rad at position 1M); its cos and sin are taken in
// double and rounded. Positions fit int32, so that they convert to fp32 as the reference does.
inline void FillRotaryTable(std::span<const int64_t> positions, std::span<const float> inv_freq,
                            TensorView cos, TensorView sin) {
  const size_t half = inv_freq.size();
  M1_CHECK(
      cos.shape() == sin.shape() && cos.dtype() == DType::kF32 && sin.dtype() == DType::kF32 &&
      (cos.shape() == Shape{static_cast<int64_t>(positions.size()), static_cast<int64_t>(half)}));
  for (size_t row = 0; row < positions.size(); ++row) {
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(positions[row]) * inv_freq[i];
      cos.data_as<float>()[row * half + i] =
          static_cast<float>(std::cos(static_cast<double>(angle)));
      sin.data_as<float>()[row * half + i] =
          static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

}  // namespace m1
