// A bf16 number as stored: the upper half of an fp32. Without other headers of ours: GPU code
// includes it, too.
#pragma once

#include <bit>
#include <cstdint>

namespace m1 {

using Bf16 = uint16_t;

constexpr float Bf16ToFloat(Bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// Nearest, ties to even; NaN stays a (quiet) NaN.
constexpr Bf16 FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<Bf16>((bits >> 16) | 0x40U);
  return static_cast<Bf16>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace m1
