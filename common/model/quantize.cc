#include "common/model/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace m1 {
namespace {

// Scales tried for a group, as parts of the one that reaches its largest element.
constexpr float kFirstShrink = 0.70F;
constexpr float kShrinkStep = 0.02F;
constexpr int kNumShrinks = 19;  // up to 1.06: 8 levels below zero, 7 above

float Largest(std::span<const float> row) {
  float largest = 0.0F;
  for (const float value : row) largest = std::max(largest, std::fabs(value));
  return largest;
}

float ToInt4(float value, float inverse) {
  return std::clamp(std::nearbyint(value * inverse), -8.0F, 7.0F);
}

float SquaredError(std::span<const float> group, float scale) {
  const float inverse = 1.0F / scale;
  float error = 0.0F;
  for (const float value : group) {
    const float difference = ToInt4(value, inverse) * scale - value;
    error += difference * difference;
  }
  return error;
}

// A normal bf16 number.
float BestScale(std::span<const float> group) {
  const float whole = Largest(group) / 7.0F;
  // Below this, squares of the elements would be subnormal.
  if (whole < 1e-15F) return 1.0F;
  float best_scale = 1.0F;
  float best_error = std::numeric_limits<float>::infinity();
  for (int i = 0; i < kNumShrinks; ++i) {
    const float shrink = kFirstShrink + kShrinkStep * static_cast<float>(i);
    const float scale = Bf16ToFloat(FloatToBf16(whole * shrink));
    const float error = SquaredError(group, scale);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
  }
  return best_scale;
}

}  // namespace

float QuantizeInt8(std::span<const float> row, int8_t* integers) {
  const float scale = Largest(row) / 127.0F;
  const bool is_usable = std::isnormal(scale);
  for (size_t i = 0; i < row.size(); ++i) {
    const float rounded = is_usable ? std::nearbyint(row[i] / scale) : 0.0F;
    integers[i] = static_cast<int8_t>(std::clamp(rounded, -127.0F, 127.0F));
  }
  return is_usable ? scale : 1.0F;
}

void QuantizeInt4(std::span<const float> row, int64_t group_size, uint8_t* nibbles, Bf16* scales) {
  const auto size = static_cast<size_t>(group_size);
  for (size_t begin = 0; begin < row.size(); begin += size) {
    const std::span<const float> group = row.subspan(begin, size);
    const float scale = BestScale(group);
    const float inverse = 1.0F / scale;
    scales[begin / size] = FloatToBf16(scale);
    for (size_t i = 0; i < size; i += 2) {
      const auto low = static_cast<int>(ToInt4(group[i], inverse)) + 8;
      const auto high = static_cast<int>(ToInt4(group[i + 1], inverse)) + 8;
      nibbles[(begin + i) / 2] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

}  // namespace m1
