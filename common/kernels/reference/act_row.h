// Elements of an activation tensor (fp32 or bf16) as floats, and the two orders of summation of
// backend.h.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "common/tensor/tensor_view.h"

namespace m1 {

inline bool IsAct(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBf16; }

inline float RoundToAct(float value, DType dtype) {
  return dtype == DType::kBf16 ? Bf16ToFloat(FloatToBf16(value)) : value;
}

inline float LoadAct(ConstTensorView x, int64_t index) {
  return x.dtype() == DType::kBf16 ? Bf16ToFloat(x.data_as<Bf16>()[index])
                                   : x.data_as<float>()[index];
}

inline void StoreAct(TensorView x, int64_t index, float value) {
  if (x.dtype() == DType::kBf16) {
    x.data_as<Bf16>()[index] = FloatToBf16(value);
  } else {
    x.data_as<float>()[index] = value;
  }
}

// The fixed tree: j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
inline float AddLanes(std::array<float, 16> lanes) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
  }
  return lanes[0];
}

// Dot form of n elements of a from a_begin and of b from b_begin; in pairs where both are bf16.
inline float DotForm(ConstTensorView a, int64_t a_begin, ConstTensorView b, int64_t b_begin,
                     int64_t n) {
  const bool in_pairs = a.dtype() == DType::kBf16 && b.dtype() == DType::kBf16;
  std::array<float, 16> lanes{};
  const auto add = [&](size_t lane, int64_t i) {
    const float x = i < n ? LoadAct(a, a_begin + i) : 0.0f;
    const float y = i < n ? LoadAct(b, b_begin + i) : 0.0f;
    lanes[lane] = std::fma(x, y, lanes[lane]);
  };
  for (int64_t begin = 0; begin < n; begin += 32) {
    for (size_t j = 0; j < 16; ++j) {
      const int64_t lane = static_cast<int64_t>(j);
      if (in_pairs) {
        add(j, begin + 2 * lane + 1);
        add(j, begin + 2 * lane);
      } else {
        add(j, begin + lane);
        add(j, begin + 16 + lane);
      }
    }
  }
  return AddLanes(lanes);
}

// Column form on top of `sum`: x(i) * y(i) for i in [0, n). x and y are not called outside that
// range.
template <typename X, typename Y>
float ColumnForm(DType dtype, int64_t n, float sum, X x, Y y) {
  if (dtype != DType::kBf16) {
    for (int64_t i = 0; i < n; ++i) sum = std::fma(x(i), y(i), sum);
    return sum;
  }
  for (int64_t i = 0; i < n; i += 2) {
    const bool has_odd = i + 1 < n;
    sum = std::fma(has_odd ? x(i + 1) : 0.0f, has_odd ? y(i + 1) : 0.0f, sum);
    sum = std::fma(x(i), y(i), sum);
  }
  return sum;
}

}  // namespace m1
