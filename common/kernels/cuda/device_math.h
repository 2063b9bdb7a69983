// exp, log, sigmoid and silu of exact_math.h, step by step the same, for kernel bodies. Compiled
// without fused multiply-adds that the source does not write, with IEEE division and square root,
// and with subnormals flushed (nvcc -fmad=false -prec-div=true -prec-sqrt=true -ftz=true).
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/exact_math_constants.h"

namespace m1::cuda {

inline constexpr uint32_t kQuietNaNBits = 0x7fc00000U;
inline constexpr uint32_t kInfinityBits = 0x7f800000U;

M1_DEVICE float QuietNaN() { return std::bit_cast<float>(kQuietNaNBits); }
M1_DEVICE float Infinity() { return std::bit_cast<float>(kInfinityBits); }

M1_DEVICE float Exp(float x) {
  constexpr float q0 = kExpQ[0];
  constexpr float q1 = kExpQ[1];
  constexpr float q2 = kExpQ[2];
  constexpr float q3 = kExpQ[3];
  constexpr float q4 = kExpQ[4];
  if (x != x) return QuietNaN();
  if (x < kExpZeroBelow) return 0.0f;
  if (kExpInfAbove < x) return Infinity();
  const float shifted = fmaf(x, kLog2E, kRoundToInteger);
  const float n = shifted - kRoundToInteger;
  const float r = fmaf(n, -kLn2Low, fmaf(n, -kLn2High, x));
  const float q = fmaf(fmaf(fmaf(fmaf(q4, r, q3), r, q2), r, q1), r, q0);
  const float p = fmaf(r * r, q, r) + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                              (std::bit_cast<uint32_t>(shifted) << 23));
}

M1_DEVICE float Log(float x) {
  constexpr float w0 = kLogW[0];
  constexpr float w1 = kLogW[1];
  constexpr float w2 = kLogW[2];
  constexpr float w3 = kLogW[3];
  constexpr float w4 = kLogW[4];
  if (x != x || x < 0.0f) return QuietNaN();
  if (x < kMinNormal) return -Infinity();
  if (x == Infinity()) return x;
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t exponent = (bits - kSqrtHalfBits) >> 23;
  const float m =
      std::bit_cast<float>(static_cast<uint32_t>(bits) - (static_cast<uint32_t>(exponent) << 23));
  const float f = m - 1.0f;
  const float s = f / (2.0f + f);
  const float z = s * s;
  const float w = z * fmaf(fmaf(fmaf(fmaf(w4, z, w3), z, w2), z, w1), z, w0);
  const float log_m = fmaf(-s, f - w, f);
  const auto e = static_cast<float>(exponent);
  return fmaf(e, kLn2High, fmaf(e, kLn2Low, log_m));
}

M1_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

M1_DEVICE float Silu(float x) { return x * Sigmoid(x); }

}  // namespace m1::cuda
