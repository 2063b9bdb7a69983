// Element types of tensors, and bf16 conversion (round to nearest even).
#pragma once

#include <bit>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace m1 {

enum class DType : uint8_t { kF32 = 0, kBf16 = 1, kF16 = 2, kI32 = 3, kI8 = 4, kU8 = 5, kI64 = 6 };

constexpr int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

// "fp32", "bf16", ...; the spelling of flags and messages.
absl::string_view DTypeName(DType dtype);

// A bf16 number as stored: the upper half of an fp32.
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
