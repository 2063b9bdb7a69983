// simd_integer.h on AVX2. Included by it only.
#pragma once

#include <immintrin.h>

namespace m1::M1_SIMD_NAMESPACE {

struct IntSums {
  __m256i v;
};
struct Int8x64 {
  __m256i quarters[4];  // widened to 16 bits: the 8-bit product of this set saturates
};
using Int4x64 = Int8x64;

inline F32x16 SetHalves(float low, float high) {
  return {_mm256_set1_ps(low), _mm256_set1_ps(high)};
}
inline __m256i Widen16(const int8_t* from) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline IntSums ZeroSums() { return {_mm256_setzero_si256()}; }
inline Int8x64 LoadInt8(const int8_t* from) {
  return {{Widen16(from), Widen16(from + 16), Widen16(from + 32), Widen16(from + 48)}};
}
inline IntSums AddDots(IntSums sums, const int8_t* x, const Int8x64& w) {
  M1_UNROLL
  for (int i = 0; i < 4; ++i) {
    sums.v = _mm256_add_epi32(sums.v, _mm256_madd_epi16(Widen16(x + 16 * i), w.quarters[i]));
  }
  return sums;
}
inline int32_t Total(IntSums sums, int32_t) {
  const __m128i by4 =
      _mm_add_epi32(_mm256_castsi256_si128(sums.v), _mm256_extracti128_si256(sums.v, 1));
  const __m128i by2 = _mm_add_epi32(by4, _mm_shuffle_epi32(by4, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(by2, _mm_shuffle_epi32(by2, 0xb1)));
}
inline Int4x64 LoadInt4(const uint8_t* from) {
  Int4x64 w;
  M1_UNROLL
  for (int i = 0; i < 2; ++i) {
    const __m256i pairs =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * i)));
    const __m256i spread = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    const __m256i bytes =
        _mm256_sub_epi8(_mm256_and_si256(spread, _mm256_set1_epi8(0xf)), _mm256_set1_epi8(8));
    w.quarters[2 * i] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
    w.quarters[2 * i + 1] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1));
  }
  return w;
}
// The sums of neighbours of 2 x 8 lanes, in order: the instruction works on 128-bit halves.
inline __m256i AddNeighbours(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
}
inline I32x16 QuadDots(const int8_t* x, const int32_t*, const Int4x64& w) {
  __m256i pairs[4];
  M1_UNROLL
  for (int i = 0; i < 4; ++i) pairs[i] = _mm256_madd_epi16(Widen16(x + 16 * i), w.quarters[i]);
  return {AddNeighbours(pairs[0], pairs[1]), AddNeighbours(pairs[2], pairs[3])};
}

}  // namespace m1::M1_SIMD_NAMESPACE
