// simd_integer.h on the compiler's generic vectors. Included by it only.
#pragma once

namespace m1::M1_SIMD_NAMESPACE {

using I8x16 = int8_t __attribute__((vector_size(16)));
using I16x16 = int16_t __attribute__((vector_size(32)));
struct IntSums {
  I32x16 v;
};
struct Int8x64 {
  I16x16 quarters[4];
};
using Int4x64 = Int8x64;

inline F32x16 SetHalves(float low, float high) {
  return F32x16{low,  low,  low,  low,  low,  low,  low,  low,
                high, high, high, high, high, high, high, high};
}
inline I16x16 Widen16(const int8_t* from) {
  I8x16 bytes;
  __builtin_memcpy(&bytes, from, sizeof(bytes));
  return __builtin_convertvector(bytes, I16x16);
}
inline IntSums ZeroSums() { return {I32x16{}}; }
inline Int8x64 LoadInt8(const int8_t* from) {
  return {{Widen16(from), Widen16(from + 16), Widen16(from + 32), Widen16(from + 48)}};
}
inline IntSums AddDots(IntSums sums, const int8_t* x, const Int8x64& w) {
  for (int i = 0; i < 4; ++i) {
    // 127 * 128 fits 16 bits.
    sums.v += __builtin_convertvector(Widen16(x + 16 * i) * w.quarters[i], I32x16);
  }
  return sums;
}
inline int32_t Total(const IntSums& sums, int32_t) {
  int32_t total = 0;
  for (int j = 0; j < 16; ++j) total += sums.v[j];
  return total;
}
inline Int4x64 LoadInt4(const uint8_t* from) {
  int8_t values[64];
  for (int i = 0; i < 32; ++i) {
    values[2 * i] = static_cast<int8_t>((from[i] & 0xf) - 8);
    values[2 * i + 1] = static_cast<int8_t>((from[i] >> 4) - 8);
  }
  return LoadInt8(values);
}
inline I32x16 QuadDots(const int8_t* x, const int32_t*, const Int4x64& w) {
  I32x16 dots{};
  for (int i = 0; i < 4; ++i) {
    const I16x16 products = Widen16(x + 16 * i) * w.quarters[i];
    for (int j = 0; j < 16; ++j) dots[4 * i + j / 4] += products[j];
  }
  return dots;
}

}  // namespace m1::M1_SIMD_NAMESPACE
