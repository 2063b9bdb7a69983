// simd_integer.h on AVX-512, with the 8-bit dot product (VNNI) where the target has it. Included by
// it only.
#pragma once

#include <immintrin.h>

namespace m1::M1_SIMD_NAMESPACE {

// Wraps around: the library's reduction would count as signed overflow.
inline int32_t AddLanes(__m512i a) {
  const __m256i by8 = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  const __m128i by4 = _mm_add_epi32(_mm256_castsi256_si128(by8), _mm256_extracti128_si256(by8, 1));
  const __m128i by2 = _mm_add_epi32(by4, _mm_shuffle_epi32(by4, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(by2, _mm_shuffle_epi32(by2, 0xb1)));
}

// `low` in lanes 0 to 7, `high` in the others.
inline F32x16 SetHalves(float low, float high) {
  return {_mm512_mask_broadcastss_ps(_mm512_set1_ps(low), 0xff00, _mm_set_ss(high))};
}

// 32 bytes to 64 values 0..15: the lower half of a byte, then its upper half.
inline __m512i Nibbles(const uint8_t* from) {
  const __m512i pairs =
      _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  const __m512i spread = _mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4));
  return _mm512_and_si512(spread, _mm512_set1_epi8(0xf));
}

#if M1_SIMD_ID >= M1_SIMD_ID_avx512vnni

// The instruction multiplies unsigned by signed bytes and adds without saturation. The matrix is
// the unsigned operand: int8 with 128 added, which Total takes off again by the row's own sum.
struct IntSums {
  __m512i v;
};
struct Int8x64 {
  __m512i biased;
};
struct Int4x64 {
  __m512i nibbles;
};

inline IntSums ZeroSums() { return {_mm512_setzero_si512()}; }
inline Int8x64 LoadInt8(const int8_t* from) {
  return {_mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128))};
}
inline IntSums AddDots(IntSums sums, const int8_t* x, const Int8x64& w) {
  return {_mm512_dpbusd_epi32(sums.v, w.biased, _mm512_loadu_si512(x))};
}
// `x_sum`: of all elements of x. Wraps around, as the products did.
inline int32_t Total(IntSums sums, int32_t x_sum) {
  return static_cast<int32_t>(static_cast<uint32_t>(AddLanes(sums.v)) -
                              128U * static_cast<uint32_t>(x_sum));
}
inline Int4x64 LoadInt4(const uint8_t* from) { return {Nibbles(from)}; }
// `quads`: -8 times the sums of four elements of x, for the 8 that nibbles are too large.
inline I32x16 QuadDots(const int8_t* x, const int32_t* quads, const Int4x64& w) {
  return {_mm512_dpbusd_epi32(_mm512_loadu_si512(quads), w.nibbles, _mm512_loadu_si512(x))};
}

#else  // without the 8-bit dot product

struct IntSums {
  __m512i v;
};
struct Int8x64 {
  __m512i low;  // widened to 16 bits
  __m512i high;
};
using Int4x64 = Int8x64;

inline Int8x64 Widen64(__m512i bytes) {
  return {_mm512_cvtepi8_epi16(_mm512_castsi512_si256(bytes)),
          _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(bytes, 1))};
}
inline IntSums ZeroSums() { return {_mm512_setzero_si512()}; }
inline Int8x64 LoadInt8(const int8_t* from) { return Widen64(_mm512_loadu_si512(from)); }
inline IntSums AddDots(IntSums sums, const int8_t* x, const Int8x64& w) {
  const Int8x64 wide = LoadInt8(x);
  const __m512i dots =
      _mm512_add_epi32(_mm512_madd_epi16(wide.low, w.low), _mm512_madd_epi16(wide.high, w.high));
  return {_mm512_add_epi32(sums.v, dots)};
}
inline int32_t Total(IntSums sums, int32_t) { return AddLanes(sums.v); }
inline Int4x64 LoadInt4(const uint8_t* from) {
  return Widen64(_mm512_sub_epi8(Nibbles(from), _mm512_set1_epi8(8)));
}
inline I32x16 QuadDots(const int8_t* x, const int32_t*, const Int4x64& w) {
  const Int8x64 wide = LoadInt8(x);
  const __m512i low = _mm512_madd_epi16(wide.low, w.low);
  const __m512i high = _mm512_madd_epi16(wide.high, w.high);
  const __m512i evens =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  return {_mm512_add_epi32(_mm512_permutex2var_epi32(low, evens, high),
                           _mm512_permutex2var_epi32(low, odds, high))};
}

#endif

}  // namespace m1::M1_SIMD_NAMESPACE
