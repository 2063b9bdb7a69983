// F32x16 as a plain array: for machines without a header of their own. Included by simd.h only.
#pragma once

namespace m1::M1_SIMD_NAMESPACE {

struct F32x16 {
  float v[16];
};
struct I32x16 {
  uint32_t v[16];
};
struct Mask16 {
  bool v[16];
};
// 32 bf16 elements, widened: lane j of `odd` is element 2j + 1.
struct Bf16x32 {
  F32x16 odd;
  F32x16 even;
};

// Register tile of a product: rows of x by rows of w.
inline constexpr int kTileRows = 2;
inline constexpr int kTileColumns = 4;

inline float FloatOfBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t BitsOfFloat(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float Widen(uint16_t bf16) { return FloatOfBits(static_cast<uint32_t>(bf16) << 16); }
inline float Widen(float value) { return value; }
inline void StoreOne(float value, float* to) { *to = value; }
// Nearest even; NaN stays a quiet NaN.
inline void StoreOne(float value, uint16_t* to) {
  const uint32_t bits = BitsOfFloat(value);
  const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
  *to = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40U
                                  : (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// Returns a Type whose lane j is the expression.
#define M1_LANES(Type, expression)                         \
  do {                                                     \
    Type out_;                                             \
    for (int j = 0; j < 16; ++j) out_.v[j] = (expression); \
    return out_;                                           \
  } while (false)

inline F32x16 Set(float value) { M1_LANES(F32x16, value); }
inline F32x16 Zero() { return Set(0.0f); }
template <typename T>
inline F32x16 Load(const T* from) {
  M1_LANES(F32x16, Widen(from[j]));
}
// The first n lanes (n <= 16), then zeros.
template <typename T>
inline F32x16 LoadPartial(const T* from, int64_t n) {
  M1_LANES(F32x16, j < n ? Widen(from[j]) : 0.0f);
}
template <typename T>
inline void StorePartial(const F32x16& a, T* to, int64_t n) {
  for (int64_t j = 0; j < 16 && j < n; ++j) StoreOne(a.v[j], to + j);
}
template <typename T>
inline void Store(const F32x16& a, T* to) {
  StorePartial(a, to, 16);
}

inline F32x16 Add(const F32x16& a, const F32x16& b) { M1_LANES(F32x16, a.v[j] + b.v[j]); }
inline F32x16 Sub(const F32x16& a, const F32x16& b) { M1_LANES(F32x16, a.v[j] - b.v[j]); }
inline F32x16 Mul(const F32x16& a, const F32x16& b) { M1_LANES(F32x16, a.v[j] * b.v[j]); }
inline F32x16 Div(const F32x16& a, const F32x16& b) { M1_LANES(F32x16, a.v[j] / b.v[j]); }
inline F32x16 Sqrt(const F32x16& a) { M1_LANES(F32x16, __builtin_sqrtf(a.v[j])); }
// a * b + c
inline F32x16 Fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  M1_LANES(F32x16, __builtin_fmaf(a.v[j], b.v[j], c.v[j]));
}

inline Mask16 Less(const F32x16& a, const F32x16& b) { M1_LANES(Mask16, a.v[j] < b.v[j]); }
inline Mask16 IsNan(const F32x16& a) { M1_LANES(Mask16, __builtin_isnan(a.v[j])); }
inline F32x16 Select(const Mask16& mask, const F32x16& yes, const F32x16& no) {
  M1_LANES(F32x16, mask.v[j] ? yes.v[j] : no.v[j]);
}

inline I32x16 BitsOf(const F32x16& a) { M1_LANES(I32x16, BitsOfFloat(a.v[j])); }
inline F32x16 FromBits(const I32x16& a) { M1_LANES(F32x16, FloatOfBits(a.v[j])); }
inline I32x16 SetInt(int32_t value) { M1_LANES(I32x16, static_cast<uint32_t>(value)); }
inline I32x16 AddInt(const I32x16& a, const I32x16& b) { M1_LANES(I32x16, a.v[j] + b.v[j]); }
inline I32x16 SubInt(const I32x16& a, const I32x16& b) { M1_LANES(I32x16, a.v[j] - b.v[j]); }
template <int kBits>
inline I32x16 ShiftLeft(const I32x16& a) {
  M1_LANES(I32x16, a.v[j] << kBits);
}
// Arithmetic.
template <int kBits>
inline I32x16 ShiftRight(const I32x16& a) {
  M1_LANES(I32x16, static_cast<uint32_t>(static_cast<int32_t>(a.v[j]) >> kBits));
}
inline F32x16 ToFloat(const I32x16& a) {
  M1_LANES(F32x16, static_cast<float>(static_cast<int32_t>(a.v[j])));
}

#undef M1_LANES

inline Bf16x32 LoadPairs(const uint16_t* from) {
  Bf16x32 out;
  for (int j = 0; j < 16; ++j) {
    out.odd.v[j] = Widen(from[2 * j + 1]);
    out.even.v[j] = Widen(from[2 * j]);
  }
  return out;
}
// The first n elements (n < 32), then zeros.
inline Bf16x32 LoadPairsPartial(const uint16_t* from, int64_t n) {
  uint16_t padded[32] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = from[i];
  return LoadPairs(padded);
}
// The pair at `from` in every lane.
inline Bf16x32 SetPairs(const uint16_t* from) { return {Set(Widen(from[1])), Set(Widen(from[0]))}; }
// The odd elements replaced by zeros.
inline Bf16x32 EvenOnly(const Bf16x32& a) { return {Zero(), a.even}; }
inline F32x16 Dot(const F32x16& sum, const Bf16x32& a, const Bf16x32& b) {
  return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
}

// j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
inline float ReduceTree(F32x16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) a.v[j] = a.v[j] + a.v[j + half];
  }
  return a.v[0];
}
// No lane is NaN.
inline float ReduceMax(const F32x16& a) {
  float max = a.v[0];
  for (int j = 1; j < 16; ++j) max = a.v[j] > max ? a.v[j] : max;
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
