// F32x16 in the compiler's generic vectors: for machines without a header of their own. Included by
// simd.h only.
#pragma once

namespace m1::M1_SIMD_NAMESPACE {

using F32x16 = float __attribute__((vector_size(64)));
using I32x16 = int32_t __attribute__((vector_size(64)));
using U32x16 = uint32_t __attribute__((vector_size(64)));
using U16x16 = uint16_t __attribute__((vector_size(32)));
using Mask16 = I32x16;  // all bits of a lane
using F64x16 = double __attribute__((vector_size(128)));

// 32 bf16 elements, widened: lane j of `odd` is element 2j + 1.
struct Bf16x32 {
  F32x16 odd;
  F32x16 even;
};

// Register tile of a product: rows of x by rows of w.
inline constexpr int kTileRows = 2;
inline constexpr int kTileColumns = 2;

template <typename To, typename From>
inline To BitsAs(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

inline I32x16 SetInt(int32_t value) { return I32x16{} + value; }
// By bits: 0 + -0 would be +0.
inline F32x16 Set(float value) { return BitsAs<F32x16>(SetInt(BitsAs<int32_t>(value))); }
inline F32x16 Zero() { return F32x16{}; }

inline F32x16 Load(const float* from) {
  F32x16 a;
  __builtin_memcpy(&a, from, sizeof(a));
  return a;
}
inline F32x16 Load(const uint16_t* from) {
  U16x16 bf16;
  __builtin_memcpy(&bf16, from, sizeof(bf16));
  return BitsAs<F32x16>(__builtin_convertvector(bf16, U32x16) << 16);
}
// The first n lanes (n <= 16), then zeros.
template <typename T>
inline F32x16 LoadPartial(const T* from, int64_t n) {
  T padded[16] = {};
  __builtin_memcpy(padded, from, static_cast<unsigned long>(n) * sizeof(T));
  return Load(padded);
}

inline void Store(const F32x16& a, float* to) { __builtin_memcpy(to, &a, sizeof(a)); }
// Nearest even; NaN stays a quiet NaN.
inline void Store(const F32x16& a, uint16_t* to) {
  const U32x16 bits = BitsAs<U32x16>(a);
  const U32x16 upper = bits >> 16;
  const U32x16 rounded = (bits + 0x7fffU + (upper & 1U)) >> 16;
  const U32x16 nan = BitsAs<U32x16>(a != a);
  const U32x16 result = ((upper | 0x40U) & nan) | (rounded & ~nan);
  const U16x16 bf16 = __builtin_convertvector(result, U16x16);
  __builtin_memcpy(to, &bf16, sizeof(bf16));
}
template <typename T>
inline void StorePartial(const F32x16& a, T* to, int64_t n) {
  T lanes[16];
  Store(a, lanes);
  __builtin_memcpy(to, lanes, static_cast<unsigned long>(n) * sizeof(T));
}

inline F32x16 Add(const F32x16& a, const F32x16& b) { return a + b; }
inline F32x16 Sub(const F32x16& a, const F32x16& b) { return a - b; }
inline F32x16 Mul(const F32x16& a, const F32x16& b) { return a * b; }
inline F32x16 Div(const F32x16& a, const F32x16& b) { return a / b; }
inline F32x16 Sqrt(const F32x16& a) {
  F32x16 root;
  for (int j = 0; j < 16; ++j) root[j] = __builtin_sqrtf(a[j]);
  return root;
}
// a * b + c
inline F32x16 Fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  F32x16 sum;
  for (int j = 0; j < 16; ++j) sum[j] = __builtin_fmaf(a[j], b[j], c[j]);
  return sum;
}

inline Mask16 Less(const F32x16& a, const F32x16& b) { return a < b; }
inline Mask16 IsNan(const F32x16& a) { return a != a; }
inline F32x16 Select(const Mask16& mask, const F32x16& yes, const F32x16& no) {
  return BitsAs<F32x16>((BitsAs<I32x16>(yes) & mask) | (BitsAs<I32x16>(no) & ~mask));
}
// Bit j is lane j's.
inline uint32_t LaneBits(const Mask16& mask) {
  constexpr I32x16 kPlaces = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                              1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const I32x16 places = mask & kPlaces;
  int32_t bits = 0;
  for (int j = 0; j < 16; ++j) bits |= places[j];
  return static_cast<uint32_t>(bits);
}

inline F64x16 ZeroWide() { return F64x16{}; }
inline F64x16 AddWide(const F64x16& sum, const F32x16& a) {
  return sum + __builtin_convertvector(a, F64x16);
}
inline double ReduceWide(const F64x16& a) {
  double sum = 0.0;
  for (int j = 0; j < 16; ++j) sum += a[j];
  return sum;
}

inline I32x16 BitsOf(const F32x16& a) { return BitsAs<I32x16>(a); }
inline F32x16 FromBits(const I32x16& a) { return BitsAs<F32x16>(a); }
// Integers wrap: unsigned inside.
inline I32x16 AddInt(const I32x16& a, const I32x16& b) {
  return BitsAs<I32x16>(BitsAs<U32x16>(a) + BitsAs<U32x16>(b));
}
inline I32x16 SubInt(const I32x16& a, const I32x16& b) {
  return BitsAs<I32x16>(BitsAs<U32x16>(a) - BitsAs<U32x16>(b));
}
template <int kBits>
inline I32x16 ShiftLeft(const I32x16& a) {
  return BitsAs<I32x16>(BitsAs<U32x16>(a) << kBits);
}
// Arithmetic.
template <int kBits>
inline I32x16 ShiftRight(const I32x16& a) {
  return a >> kBits;
}
inline F32x16 ToFloat(const I32x16& a) { return __builtin_convertvector(a, F32x16); }

// A pair of bf16 as one 32-bit lane: the odd element is its upper half (little-endian).
inline Bf16x32 MakePairs(const U32x16& pairs) {
  return {BitsAs<F32x16>(pairs & 0xffff0000U), BitsAs<F32x16>(pairs << 16)};
}
inline Bf16x32 LoadPairs(const uint16_t* from) {
  U32x16 pairs;
  __builtin_memcpy(&pairs, from, sizeof(pairs));
  return MakePairs(pairs);
}
// The first n elements (n < 32), then zeros.
inline Bf16x32 LoadPairsPartial(const uint16_t* from, int64_t n) {
  uint16_t padded[32] = {};
  __builtin_memcpy(padded, from, static_cast<unsigned long>(n) * sizeof(uint16_t));
  return LoadPairs(padded);
}
// The pair at `from` in every lane.
inline Bf16x32 SetPairs(const uint16_t* from) {
  uint32_t pair;
  __builtin_memcpy(&pair, from, sizeof(pair));
  return MakePairs(U32x16{} + pair);
}
// The odd elements replaced by zeros.
inline Bf16x32 EvenOnly(const Bf16x32& a) { return {Zero(), a.even}; }
inline F32x16 Dot(const F32x16& sum, const Bf16x32& a, const Bf16x32& b) {
  return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
}

// j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
inline float ReduceTree(const F32x16& a) {
  float lanes[16];
  Store(a, lanes);
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
  }
  return lanes[0];
}
// No lane is NaN.
inline float ReduceMax(const F32x16& a) {
  float max = a[0];
  for (int j = 1; j < 16; ++j) max = a[j] > max ? a[j] : max;
  return max;
}
inline void ReduceTrees4(const F32x16& a, const F32x16& b, const F32x16& c, const F32x16& d,
                         float* to) {
  to[0] = ReduceTree(a);
  to[1] = ReduceTree(b);
  to[2] = ReduceTree(c);
  to[3] = ReduceTree(d);
}

}  // namespace m1::M1_SIMD_NAMESPACE
