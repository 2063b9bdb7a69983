// Element types of tensors, and bf16 conversion (round to nearest even).
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

#include "common/tensor/bf16.h"

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

}  // namespace m1
