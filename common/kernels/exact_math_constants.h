// The constants that exact_math.cc and the vector forms in cpu/simd_math.h share. No code: this
// header is included by sources that are compiled for different instruction sets.
#pragma once

namespace m1 {

// exp: x = n ln2 + r with |r| <= ln2 / 2; exp(r) = 1 + (r + r^2 q(r)), q of degree 4 fitted to a
// relative error of 5.4e-9. The result is scaled by adding n to the exponent.
inline constexpr float kExpZeroBelow = -87.3f;
inline constexpr float kExpInfAbove = 88.7f;
inline constexpr float kLog2E = 0x1.715476p+0f;
// Adding it rounds to an integer, which then stands in the low bits of the sum.
inline constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23
// ln2 in two parts; the upper has 16 bits, so that n times it is exact.
inline constexpr float kLn2High = 0x1.62e4p-1f;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kExpQ[5] = {0.5f, 0x1.55548cp-3f, 0x1.55547ep-5f, 0x1.123d7ap-7f,
                                   0x1.6d98ccp-10f};

// log: x = 2^e m with m in [sqrt(1/2), sqrt(2)); f = m - 1, s = f / (2 + f), z = s^2;
// log(m) = 2 atanh(s) = f - s (f - w) with w = z (2/3 + 2/5 z + 2/7 z^2 + 2/9 z^3 + 2/11 z^4).
inline constexpr int kSqrtHalfBits = 0x3f3504f3;
inline constexpr float kMinNormal = 0x1p-126f;
inline constexpr float kLogW[5] = {2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11};

}  // namespace m1
