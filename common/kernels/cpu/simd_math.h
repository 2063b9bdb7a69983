// exp, log, sigmoid and silu on 16 lanes: the steps of exact_math.cc lane by lane, with equal bits.
#pragma once

#include "common/kernels/cpu/simd.h"
#include "common/kernels/exact_math_constants.h"

namespace m1::M1_SIMD_NAMESPACE {

inline F32x16 Polynomial(const float (&c)[5], F32x16 x) {
  F32x16 sum = Set(c[4]);
  M1_UNROLL
  for (int i = 3; i >= 0; --i) sum = Fma(sum, x, Set(c[i]));
  return sum;
}

inline F32x16 Infinity() { return Set(__builtin_inff()); }
inline F32x16 QuietNan() { return Set(__builtin_nanf("")); }
// -x, zeros and NaN included: flips the sign bit.
inline F32x16 Negate(F32x16 x) { return FromBits(AddInt(BitsOf(x), SetInt(INT32_MIN))); }

inline F32x16 Exp(F32x16 x) {
  const F32x16 shifted = Fma(x, Set(kLog2E), Set(kRoundToInteger));
  const F32x16 n = Sub(shifted, Set(kRoundToInteger));
  F32x16 r = Fma(n, Set(-kLn2High), x);
  r = Fma(n, Set(-kLn2Low), r);
  const F32x16 p = Add(Fma(Mul(r, r), Polynomial(kExpQ, r), r), Set(1.0f));
  F32x16 result = FromBits(AddInt(BitsOf(p), ShiftLeft<23>(BitsOf(shifted))));
  result = Select(Less(x, Set(kExpZeroBelow)), Zero(), result);
  result = Select(Less(Set(kExpInfAbove), x), Infinity(), result);
  return Select(IsNan(x), QuietNan(), result);
}

inline F32x16 Log(F32x16 x) {
  const I32x16 bits = BitsOf(x);
  const I32x16 exponent = ShiftRight<23>(SubInt(bits, SetInt(kSqrtHalfBits)));
  const F32x16 m = FromBits(SubInt(bits, ShiftLeft<23>(exponent)));
  const F32x16 f = Sub(m, Set(1.0f));
  const F32x16 s = Div(f, Add(Set(2.0f), f));
  const F32x16 z = Mul(s, s);
  const F32x16 w = Mul(z, Polynomial(kLogW, z));
  const F32x16 log_m = Fma(Negate(s), Sub(f, w), f);
  const F32x16 e = ToFloat(exponent);
  F32x16 result = Fma(e, Set(kLn2High), Fma(e, Set(kLn2Low), log_m));
  result = Select(Less(x, Set(kMinNormal)), Negate(Infinity()), result);
  result = Select(Less(x, Infinity()), result, Infinity());
  result = Select(Less(x, Zero()), QuietNan(), result);
  return Select(IsNan(x), QuietNan(), result);
}

inline F32x16 Sigmoid(F32x16 x) { return Div(Set(1.0f), Add(Set(1.0f), Exp(Negate(x)))); }

inline F32x16 Silu(F32x16 x) { return Mul(x, Sigmoid(x)); }

}  // namespace m1::M1_SIMD_NAMESPACE
