// F32x16 on AVX2 and FMA: two vectors of 8 lanes. Included by simd.h only.
#pragma once

#include <immintrin.h>

namespace m1::M1_SIMD_NAMESPACE {

struct F32x16 {
  __m256 low;
  __m256 high;
};
struct I32x16 {
  __m256i low;
  __m256i high;
};
using Mask16 = F32x16;  // all bits of a lane
struct F64x16 {
  __m256d quarters[4];
};

// 32 bf16 elements, widened: lane j of `odd` is element 2j + 1.
struct Bf16x32 {
  F32x16 odd;
  F32x16 even;
};

// Register tile of a product: rows of x by rows of w. 8 of the 16 registers hold sums.
inline constexpr int kTileRows = 2;
inline constexpr int kTileColumns = 2;

inline F32x16 Set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32x16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline __m256 WidenHalf(const uint16_t* from) {
  const __m128i bf16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
}
inline F32x16 Load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline F32x16 Load(const uint16_t* from) { return {WidenHalf(from), WidenHalf(from + 8)}; }
// The first n lanes (n <= 16), then zeros.
template <typename T>
inline F32x16 LoadPartial(const T* from, int64_t n) {
  T padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = from[i];
  return Load(padded);
}

// Nearest even, as 32-bit lanes; NaN stays a quiet NaN.
inline __m256i RoundHalf(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet, nan);
}
inline void Store(F32x16 a, float* to) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
inline void Store(F32x16 a, uint16_t* to) {
  // The pack interleaves 128-bit halves.
  const __m256i packed = _mm256_packus_epi32(RoundHalf(a.low), RoundHalf(a.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}
template <typename T>
inline void StorePartial(F32x16 a, T* to, int64_t n) {
  T lanes[16];
  Store(a, lanes);
  for (int64_t i = 0; i < n; ++i) to[i] = lanes[i];
}

inline F32x16 Add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F32x16 Sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F32x16 Mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F32x16 Div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline F32x16 Sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
// a * b + c
inline F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

inline Mask16 Less(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
inline Mask16 IsNan(F32x16 a) {
  return {_mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q), _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q)};
}
inline F32x16 Select(Mask16 mask, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, mask.low),
          _mm256_blendv_ps(no.high, yes.high, mask.high)};
}
// Bit j is lane j's.
inline uint32_t LaneBits(Mask16 mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(mask.low)) |
         static_cast<uint32_t>(_mm256_movemask_ps(mask.high)) << 8;
}

inline F64x16 ZeroWide() {
  const __m256d zero = _mm256_setzero_pd();
  return {{zero, zero, zero, zero}};
}
inline __m256d AddQuarter(__m256d sum, __m128 a) { return _mm256_add_pd(sum, _mm256_cvtps_pd(a)); }
inline F64x16 AddWide(const F64x16& sum, F32x16 a) {
  return {{AddQuarter(sum.quarters[0], _mm256_castps256_ps128(a.low)),
           AddQuarter(sum.quarters[1], _mm256_extractf128_ps(a.low, 1)),
           AddQuarter(sum.quarters[2], _mm256_castps256_ps128(a.high)),
           AddQuarter(sum.quarters[3], _mm256_extractf128_ps(a.high, 1))}};
}
inline double ReduceWide(const F64x16& a) {
  const __m256d sum = _mm256_add_pd(_mm256_add_pd(a.quarters[0], a.quarters[1]),
                                    _mm256_add_pd(a.quarters[2], a.quarters[3]));
  const __m128d by2 = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
  return _mm_cvtsd_f64(_mm_add_sd(by2, _mm_unpackhi_pd(by2, by2)));
}

inline I32x16 BitsOf(F32x16 a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
inline F32x16 FromBits(I32x16 a) {
  return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)};
}
inline I32x16 SetInt(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline I32x16 AddInt(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline I32x16 SubInt(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
template <int kBits>
inline I32x16 ShiftLeft(I32x16 a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
// Arithmetic.
template <int kBits>
inline I32x16 ShiftRight(I32x16 a) {
  return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
}
inline F32x16 ToFloat(I32x16 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

// A pair of bf16 as one 32-bit lane: the odd element is its upper half.
inline Bf16x32 LoadPairs(const uint16_t* from) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16));
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  return {FromBits({_mm256_and_si256(low, upper), _mm256_and_si256(high, upper)}),
          FromBits({_mm256_slli_epi32(low, 16), _mm256_slli_epi32(high, 16)})};
}
// The first n elements (n < 32), then zeros.
inline Bf16x32 LoadPairsPartial(const uint16_t* from, int64_t n) {
  uint16_t padded[32] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = from[i];
  return LoadPairs(padded);
}
// The pair at `from` in every lane.
inline Bf16x32 SetPairs(const uint16_t* from) {
  const uint32_t odd = static_cast<uint32_t>(from[1]) << 16;
  const uint32_t even = static_cast<uint32_t>(from[0]) << 16;
  return {FromBits(SetInt(static_cast<int32_t>(odd))),
          FromBits(SetInt(static_cast<int32_t>(even)))};
}
// The odd elements replaced by zeros.
inline Bf16x32 EvenOnly(const Bf16x32& a) { return {Zero(), a.even}; }
inline F32x16 Dot(F32x16 sum, const Bf16x32& a, const Bf16x32& b) {
  return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
}

// j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
inline float ReduceTree(F32x16 a) {
  const __m256 by8 = _mm256_add_ps(a.low, a.high);
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
}
// No lane is NaN.
inline float ReduceMax(F32x16 a) {
  const __m256 by8 = _mm256_max_ps(a.low, a.high);
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
}
inline void ReduceTrees4(F32x16 a, F32x16 b, F32x16 c, F32x16 d, float* to) {
  to[0] = ReduceTree(a);
  to[1] = ReduceTree(b);
  to[2] = ReduceTree(c);
  to[3] = ReduceTree(d);
}

}  // namespace m1::M1_SIMD_NAMESPACE
