// Products of 64 integers at a time on any instruction set; all sums are exact, so every target
// gives the same ones. For the sources of one instruction set.
//
//   IntSums: a sum of products in lanes, in no particular order; ZeroSums, AddDots, Total
//   Int8x64: 64 int8 of a matrix, ready to multiply;  Int4x64: 64 int4 of 32 bytes
//   SetHalves: one number in lanes 0 to 7, another in 8 to 15
//   QuadDots: 16 lanes, lane j the sum over elements 4j .. 4j+3
#pragma once

#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

// Register tile of an integer product: rows of x by rows of w.
inline constexpr int kIntTileRows = M1_SIMD_ID >= M1_SIMD_ID_avx512 ? 4 : 2;
inline constexpr int kIntTileColumns = M1_SIMD_ID >= M1_SIMD_ID_avx512 ? 4 : 2;

}  // namespace m1::M1_SIMD_NAMESPACE

#if M1_SIMD_ID == M1_SIMD_ID_portable
#include "common/kernels/cpu/simd_integer_portable.h"
#elif M1_SIMD_ID == M1_SIMD_ID_avx2
#include "common/kernels/cpu/simd_integer_avx2.h"
#else
#include "common/kernels/cpu/simd_integer_avx512.h"
#endif
