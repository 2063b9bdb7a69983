#include "common/kernels/exact_math.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/kernels/exact_math_constants.h"

namespace m1 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// c[0] + c[1] x + ... by Horner's rule.
float Polynomial(const float (&c)[5], float x) {
  float sum = c[4];
  for (int i = 3; i >= 0; --i) sum = std::fma(sum, x, c[i]);
  return sum;
}

}  // namespace

float ExactExp(float x) {
  if (std::isnan(x)) return kNaN;
  if (x < kExpZeroBelow) return 0.0f;
  if (kExpInfAbove < x) return kInfinity;
  const float shifted = std::fma(x, kLog2E, kRoundToInteger);
  const float n = shifted - kRoundToInteger;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  const float p = std::fma(r * r, Polynomial(kExpQ, r), r) + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                              (std::bit_cast<uint32_t>(shifted) << 23));
}

float ExactLog(float x) {
  if (std::isnan(x) || x < 0.0f) return kNaN;
  if (x < kMinNormal) return -kInfinity;
  if (x == kInfinity) return kInfinity;
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t exponent = (bits - kSqrtHalfBits) >> 23;
  const float m =
      std::bit_cast<float>(static_cast<uint32_t>(bits) - (static_cast<uint32_t>(exponent) << 23));
  const float f = m - 1.0f;
  const float s = f / (2.0f + f);
  const float z = s * s;
  const float w = z * Polynomial(kLogW, z);
  const float log_m = std::fma(-s, f - w, f);
  const float e = static_cast<float>(exponent);
  return std::fma(e, kLn2High, std::fma(e, kLn2Low, log_m));
}

float ExactSigmoid(float x) { return 1.0f / (1.0f + ExactExp(-x)); }

float ExactSilu(float x) { return x * ExactSigmoid(x); }

#if defined(__x86_64__)

ScopedFlushDenormals::ScopedFlushDenormals() : saved_(_mm_getcsr()) {
  constexpr unsigned kFlushToZero = 0x8000;
  constexpr unsigned kDenormalsAreZero = 0x0040;
  _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZero);
}
ScopedFlushDenormals::~ScopedFlushDenormals() { _mm_setcsr(saved_); }

#elif defined(__aarch64__)

ScopedFlushDenormals::ScopedFlushDenormals() {
  constexpr uint64_t kFlushToZero = uint64_t{1} << 24;
  uint64_t control = 0;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  saved_ = static_cast<unsigned>(control);
  asm volatile("msr fpcr, %0" : : "r"(control | kFlushToZero));
}
ScopedFlushDenormals::~ScopedFlushDenormals() {
  asm volatile("msr fpcr, %0" : : "r"(static_cast<uint64_t>(saved_)));
}

#else
#error "flush-to-zero is known for x86-64 and AArch64 only"
#endif

}  // namespace m1
