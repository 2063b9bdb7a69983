// F32x16 on AVX-512 (F, BW, VL, DQ), with the bf16 dot product where the target has it. Included by
// simd.h only.
#pragma once

#include <immintrin.h>

namespace m1::M1_SIMD_NAMESPACE {

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};
struct Mask16 {
  __mmask16 v;
};
struct F64x16 {
  __m512d low;
  __m512d high;
};

// Register tile of a product: rows of x by rows of w. Without the bf16 dot product a row of w takes
// two registers.
inline constexpr int kTileRows = 4;
inline constexpr int kTileColumns = M1_SIMD_ID == M1_SIMD_ID_avx512bf16 ? 6 : 4;

inline __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffU : n <= 0 ? 0U : (1U << n) - 1U);
}

inline F32x16 Set(float value) { return {_mm512_set1_ps(value)}; }
inline F32x16 Zero() { return {_mm512_setzero_ps()}; }
inline F32x16 WidenLanes(__m256i bf16) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16))};
}
inline F32x16 Load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline F32x16 Load(const uint16_t* from) {
  return WidenLanes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
// The first n lanes (n <= 16), then zeros.
inline F32x16 LoadPartial(const float* from, int64_t n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n), from)};
}
inline F32x16 LoadPartial(const uint16_t* from, int64_t n) {
  return WidenLanes(_mm256_maskz_loadu_epi16(FirstLanes(n), from));
}

// Nearest even; NaN stays a quiet NaN. In integers: the conversion instruction flushes subnormals.
inline __m256i RoundLanes(F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet));
}
inline void Store(F32x16 a, float* to) { _mm512_storeu_ps(to, a.v); }
inline void Store(F32x16 a, uint16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), RoundLanes(a));
}
inline void StorePartial(F32x16 a, float* to, int64_t n) {
  _mm512_mask_storeu_ps(to, FirstLanes(n), a.v);
}
inline void StorePartial(F32x16 a, uint16_t* to, int64_t n) {
  _mm256_mask_storeu_epi16(to, FirstLanes(n), RoundLanes(a));
}

inline F32x16 Add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 Sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 Mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 Div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 Sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
// a * b + c
inline F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

inline Mask16 Less(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask16 IsNan(F32x16 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline F32x16 Select(Mask16 mask, F32x16 yes, F32x16 no) {
  return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)};
}
// Bit j is lane j's.
inline uint32_t LaneBits(Mask16 mask) { return mask.v; }

inline F64x16 ZeroWide() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline F64x16 AddWide(F64x16 sum, F32x16 a) {
  return {_mm512_add_pd(sum.low, _mm512_cvtps_pd(_mm512_castps512_ps256(a.v))),
          _mm512_add_pd(sum.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)))};
}
inline double ReduceWide(F64x16 a) { return _mm512_reduce_add_pd(_mm512_add_pd(a.low, a.high)); }

inline I32x16 BitsOf(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
inline F32x16 FromBits(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
inline I32x16 SetInt(int32_t value) { return {_mm512_set1_epi32(value)}; }
inline I32x16 AddInt(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 SubInt(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kBits>
inline I32x16 ShiftLeft(I32x16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
// Arithmetic.
template <int kBits>
inline I32x16 ShiftRight(I32x16 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline F32x16 ToFloat(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

// A pair of bf16 as one 32-bit lane: the odd element is its upper half.
inline F32x16 OddOf(__m512i pairs) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000U))))};
}
inline F32x16 EvenOf(__m512i pairs) { return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))}; }

#if M1_SIMD_ID == M1_SIMD_ID_avx512bf16
struct Bf16x32 {
  __m512i v;
};
inline Bf16x32 MakePairs(__m512i pairs) { return {pairs}; }
// The odd elements replaced by zeros.
inline Bf16x32 EvenOnly(Bf16x32 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(0xffff))}; }
inline F32x16 Dot(F32x16 sum, Bf16x32 a, Bf16x32 b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
}
#else
// 32 bf16 elements, widened: lane j of `odd` is element 2j + 1.
struct Bf16x32 {
  F32x16 odd;
  F32x16 even;
};
inline Bf16x32 MakePairs(__m512i pairs) { return {OddOf(pairs), EvenOf(pairs)}; }
// The odd elements replaced by zeros.
inline Bf16x32 EvenOnly(const Bf16x32& a) { return {Zero(), a.even}; }
inline F32x16 Dot(F32x16 sum, const Bf16x32& a, const Bf16x32& b) {
  return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
}
#endif

inline Bf16x32 LoadPairs(const uint16_t* from) { return MakePairs(_mm512_loadu_si512(from)); }
// The pair at `from` in every lane.
inline Bf16x32 SetPairs(const uint16_t* from) {
  int32_t pair;
  __builtin_memcpy(&pair, from, sizeof(pair));
  return MakePairs(_mm512_set1_epi32(pair));
}
// The first n elements (n < 32), then zeros.
inline Bf16x32 LoadPairsPartial(const uint16_t* from, int64_t n) {
  const __mmask32 mask = n <= 0 ? 0U : (1U << n) - 1U;
  return MakePairs(_mm512_maskz_loadu_epi16(mask, from));
}

// j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
inline float ReduceTree(F32x16 a) {
  const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
}
// No lane is NaN.
inline float ReduceMax(F32x16 a) { return _mm512_reduce_max_ps(a.v); }
// The trees of a, b, c and d side by side.
inline void ReduceTrees4(F32x16 a, F32x16 b, F32x16 c, F32x16 d, float* to) {
  // A 256-bit half holds one operand's eight sums, then a 128-bit quarter its four.
  const __m512 ab =
      _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  const __m512 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
  const __m512 by4 =
      _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 by2 = _mm512_add_ps(by4, _mm512_permute_ps(by4, 0x4e));
  const __m512 by1 = _mm512_add_ps(by2, _mm512_permute_ps(by2, 0xb1));
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_permutexvar_ps(quarters, by1)));
}

}  // namespace m1::M1_SIMD_NAMESPACE
