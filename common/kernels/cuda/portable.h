// What kernel bodies are written with: plain C++ that nvcc compiles for the GPU and the host
// compiler for the simulator of the tests (tests/support/cuda_simulator.h). No CUDA header, no
// abseil.
//
// A kernel body is a function template over `Thread`, the machine as one thread sees it. CudaThread
// (cuda_thread.h) is the GPU, SimulatedThread the simulator; both have
// - index(), lane(), warp(): of the thread in its block and warp; block(): BlockIndex in the grid;
// - Load(p), Store(p, value): global memory;
// - LoadShared<T>(offset), StoreShared(offset, value): shared memory, offsets in bytes;
// - StoreSharedIf(condition, offset, value): by some lanes of a warp;
// - CopyAsync16(offset, p, valid): 16 bytes to shared memory, or zeros; seen after WaitCopies;
// - CopyAsync8(offset, p, valid): the same of 8 bytes;
// - CommitCopies(), WaitCopies<kPending>(): all but the last kPending groups have arrived;
// - Barrier(): of the block;
// and, for all 32 lanes of a warp together:
// - LoadMatrices(offset): ldmatrix.x4, lane 8i + r gives row r of matrix i (8 rows of 16 bytes);
// - LoadMatricesTransposed(offset): the same, each matrix transposed;
// - TransposeMatrix(word): movmatrix, an 8 x 8 matrix of 16-bit elements;
// - Mma(d, a, b0, b1): mma.sync m16n8k16, d[16, 8] += a[16, 16] b[16, 8], bf16 to fp32;
// - MmaInt8(d, c, a, b0, b1): mma.sync m16n8k32, d[16, 8] = c[16, 8] + a[16, 32] b[32, 8], int8 to
//   int32, which wraps; d may be c;
// - Shuffle(value, lane), ShuffleXor(value, mask).
#pragma once

#include <cstdint>

#include "common/tensor/bf16.h"

#if defined(__CUDACC__)
#define M1_DEVICE __device__ __forceinline__
#define M1_UNROLL _Pragma("unroll")
#define M1_NO_UNROLL _Pragma("unroll 1")
#else
#define M1_DEVICE inline
#define M1_UNROLL
#define M1_NO_UNROLL
#endif

namespace m1::cuda {

inline constexpr int kWarpLanes = 32;

struct BlockIndex {
  int x = 0;
  int y = 0;
  int z = 0;

  constexpr bool operator==(const BlockIndex&) const = default;
};

// What a kernel is launched with, computed by the plain functions of the *_geometry.h headers.
struct LaunchGrid {
  BlockIndex blocks{1, 1, 1};
  int threads = kWarpLanes;
  int shared_bytes = 0;

  constexpr bool operator==(const LaunchGrid&) const = default;
};

// Blocks along y and z of a launch; along x there may be 2^31 - 1.
inline constexpr int kMaxGridBlocks = 65535;
constexpr bool IsLaunchable(const LaunchGrid& grid) {
  return grid.blocks.x >= 0 && grid.blocks.y <= kMaxGridBlocks && grid.blocks.z <= kMaxGridBlocks;
}

// The registers that ldmatrix.x4 fills: lane 4r + c has elements 2c and 2c + 1 of row r of each of
// the four matrices. Also a whole operand A, of m16n8k16 and of m16n8k32 (as many bytes in the same
// places).
struct alignas(16) Words4 {
  uint32_t word[4];
};

constexpr uint32_t PackBf16(float low, float high) {
  return static_cast<uint32_t>(FloatToBf16(low)) | (static_cast<uint32_t>(FloatToBf16(high)) << 16);
}

// An element of an activation type, fp32 or bf16, as a float and back.
constexpr float Widen(float value) { return value; }
constexpr float Widen(Bf16 value) { return Bf16ToFloat(value); }
template <typename Act>
constexpr Act Narrow(float value) {
  if constexpr (sizeof(Act) == sizeof(Bf16)) {
    return FloatToBf16(value);
  } else {
    return value;
  }
}

constexpr int CeilDiv(int value, int divisor) { return (value + divisor - 1) / divisor; }

}  // namespace m1::cuda
