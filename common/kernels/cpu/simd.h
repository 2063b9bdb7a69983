// 16 fp32 lanes on any instruction set. A source that includes this is compiled once per target
// with -DM1_SIMD_TARGET=portable|avx2|avx512|avx512vnni|avx512bf16, its code in M1_SIMD_NAMESPACE.
// Every target gives the same bits. No standard library here, see kernel_args.h.
//
//   F32x16, I32x16, Mask16; Zero Set Load LoadPartial Store StorePartial (float or bf16 memory)
//   Add Sub Mul Div Sqrt Fma  Less IsNan Select LaneBits
//   BitsOf FromBits AddInt SubInt ShiftLeft ShiftRight
//   F64x16: ZeroWide AddWide ReduceWide, for sums that are exact in double
//   ReduceTree, ReduceTrees4 (the fixed tree), ReduceMax
//   Bf16x32 (pairs of bf16 in lanes), LoadPairs LoadPairsPartial SetPairs EvenOnly
//   Operand<X, W>::Type, Load32<Operand, T>, Dot: one step of 32 elements of the dot form
//   Exp Log Sigmoid Silu (simd_math.h)
#pragma once

#include <stdint.h>

#ifndef M1_SIMD_TARGET
#define M1_SIMD_TARGET portable
#endif

#define M1_SIMD_ID_portable 0
#define M1_SIMD_ID_avx2 1
#define M1_SIMD_ID_avx512 2
#define M1_SIMD_ID_avx512vnni 3
#define M1_SIMD_ID_avx512bf16 4
#define M1_SIMD_CONCAT_(a, b) a##b
#define M1_SIMD_CONCAT(a, b) M1_SIMD_CONCAT_(a, b)
#define M1_SIMD_ID M1_SIMD_CONCAT(M1_SIMD_ID_, M1_SIMD_TARGET)
#define M1_SIMD_NAMESPACE M1_SIMD_CONCAT(cpu_, M1_SIMD_TARGET)

// Unrolls the loop that follows in full: arrays of lanes then live in registers.
#if defined(__clang__)
#define M1_UNROLL _Pragma("clang loop unroll(full)")
#else
#define M1_UNROLL _Pragma("GCC unroll 16")
#endif

#if M1_SIMD_ID == M1_SIMD_ID_portable
#include "common/kernels/cpu/simd_portable.h"
#elif M1_SIMD_ID == M1_SIMD_ID_avx2
#include "common/kernels/cpu/simd_avx2.h"
#else
#include "common/kernels/cpu/simd_avx512.h"
#endif

namespace m1::M1_SIMD_NAMESPACE {

// 32 elements in plain order: element i meets lane i mod 16.
struct F32x32 {
  F32x16 low;
  F32x16 high;
};

inline F32x16 Dot(F32x16 sum, const F32x32& a, const F32x32& b) {
  return Fma(a.high, b.high, Fma(a.low, b.low, sum));
}

// How elements X meet elements W in the dot form: bf16 and bf16 in pairs, all else as fp32.
template <typename X, typename W>
struct Operand {
  using Type = F32x32;
};
template <>
struct Operand<uint16_t, uint16_t> {
  using Type = Bf16x32;
};

// 32 elements from `from`, or its first n < 32 and zeros.
template <typename Op, typename T>
struct Load32;

template <typename T>
struct Load32<F32x32, T> {
  static F32x32 Whole(const T* from) { return {Load(from), Load(from + 16)}; }
  static F32x32 Partial(const T* from, int64_t n) {
    return n < 16 ? F32x32{LoadPartial(from, n), Zero()}
                  : F32x32{Load(from), LoadPartial(from + 16, n - 16)};
  }
};
template <>
struct Load32<Bf16x32, uint16_t> {
  static Bf16x32 Whole(const uint16_t* from) { return LoadPairs(from); }
  static Bf16x32 Partial(const uint16_t* from, int64_t n) { return LoadPairsPartial(from, n); }
};

// The sum of a[i] b[i] for i in [0, n), in dot form.
template <typename X, typename W>
inline float DotForm(const X* a, const W* b, int64_t n) {
  using Op = typename Operand<X, W>::Type;
  F32x16 sum = Zero();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    sum = Dot(sum, Load32<Op, X>::Whole(a + i), Load32<Op, W>::Whole(b + i));
  }
  if (i < n) {
    sum = Dot(sum, Load32<Op, X>::Partial(a + i, n - i), Load32<Op, W>::Partial(b + i, n - i));
  }
  return ReduceTree(sum);
}

}  // namespace m1::M1_SIMD_NAMESPACE
