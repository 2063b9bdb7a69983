// Shapes and index maps of softmax attention: which thread copies, reads and holds what. Plain
// functions; the kernels (softmax_kernel.h), their launch and the CPU tests use these alone.
//
// A warp computes all there is of its tiles of 8 queries: keys (and values, transposed) are the
// wide operand of mma.sync.m16n8k16, queries the narrow one, a query one column. So its bits depend
// on its own q and keys alone, whatever the shape.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_geometry.h"

namespace m1::cuda {

// The same as m1::kKvBlockTokens and m1::kSoftmaxSegmentKeys.
inline constexpr int kKeyBlock = 64;
inline constexpr int kSegmentKeys = 1024;
inline constexpr int kSegmentBlocks = kSegmentKeys / kKeyBlock;

inline constexpr int kKeyTiles = kKeyBlock / kMmaM;  // of the scores; K steps of the values' sum

constexpr bool IsSoftmaxHeadDim(int head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 128;
}

constexpr int NumSegments(int num_keys) { return CeilDiv(num_keys, kSegmentKeys); }

// A stage holds k, then v, of a key block.
template <int head_dim, int warps, int tiles>
struct SoftmaxShape {
  static constexpr int kHeadDim = head_dim;
  static constexpr int kTiles = tiles;  // of 8 queries, of a warp
  static constexpr int kStages = 2;
  static constexpr int kThreads = kWarpLanes * warps;
  static constexpr int kWarpQueries = kTiles * kMmaN;
  static constexpr int kQueries = warps * kWarpQueries;
  static constexpr int kSteps = kHeadDim / kMmaK;     // of a score
  static constexpr int kDimTiles = kHeadDim / kMmaM;  // of the output
  static constexpr int kKeyChunks = kHeadDim / kChunkElements;
  static constexpr int kMatrixBytes = kKeyBlock * kHeadDim * 2;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  static constexpr int kStagesBytes = kStages * kStageBytes;
  static constexpr int kMatrixCopies = kKeyBlock * kKeyChunks / kThreads;  // of a thread
  // KeyOffset repeats itself after so many of them.
  static constexpr int kCopyTurn = kThreads < 8 * kKeyChunks ? 8 * kKeyChunks / kThreads : 1;
  // What a prompt keeps of the segments merged so far, each thread its own.
  static constexpr int kTotalBytes = kTiles * kDimTiles * 4 * kThreads * 4;

  static_assert(IsSoftmaxHeadDim(kHeadDim));
  static_assert(kMatrixCopies * kThreads == kKeyBlock * kKeyChunks);
  static_assert(kMatrixCopies % kCopyTurn == 0);
  static_assert(kStages >= 2);
};

// Few: of SoftmaxSegmentsKernel. Many: of SoftmaxPromptKernel.
template <int head_dim>
using SoftmaxFew = SoftmaxShape<head_dim, 1, 1>;
template <int head_dim>
using SoftmaxMany = SoftmaxShape<head_dim, 8, 2>;

// Calls visit.operator()<head_dim>().
template <typename Visit>
constexpr auto ForSoftmaxHeadDim(int head_dim, Visit visit) {
  switch (head_dim) {
    case 32:
      return visit.template operator()<32>();
    case 64:
      return visit.template operator()<64>();
    default:
      return visit.template operator()<128>();
  }
}

// A chunk of 16 bytes of the row of a key in k or v.
struct KeyChunk {
  int key;
  int chunk;
};

// Its byte offset in the matrix. 128 bytes hold 8 / kKeyChunks rows (or a part of one), and the
// exclusive or spreads a column's chunks of eight neighbouring rows over all banks.
template <typename Shape>
constexpr int KeyOffset(const KeyChunk& at) {
  constexpr int kLineRows = Shape::kKeyChunks < 8 ? 8 / Shape::kKeyChunks : 1;
  constexpr int kTurns = 8 / kLineRows;
  // Unsigned: the compiler sees what keys have in common, and holds fewer addresses.
  const unsigned key = static_cast<unsigned>(at.key);
  const int place = at.chunk ^ static_cast<int>(key / kLineRows % kTurns);
  return (at.key * Shape::kKeyChunks + place) * kChunkBytes;
}

// The copy-th chunk of each matrix that a thread brings in.
template <typename Shape>
constexpr KeyChunk CopiedKeyChunk(int thread, int copy) {
  const int id = copy * Shape::kThreads + thread;
  return {id / Shape::kKeyChunks, id % Shape::kKeyChunks};
}

// Where a lane points ldmatrix.x4 for operand A of the scores: 16 keys, K step `step`.
constexpr KeyChunk ScoreOperand(int lane, int key_tile, int step) {
  return {key_tile * kMmaM + lane % 16, 2 * step + lane / 16};
}

// The same, transposed, for operand A of the values' sum: 16 elements of v, K step `step` of keys.
constexpr KeyChunk ValueOperand(int lane, int dim_tile, int step) {
  return {step * kMmaK + lane / 16 * 8 + lane % 8, 2 * dim_tile + lane / 8 % 2};
}

// Of the two values in register `i` (0-3) of that operand, low and high, those of the first
// `visible` keys of its K step.
constexpr uint32_t ValueMask(int lane, int i, int visible) {
  const int left = visible - 2 * (lane % 4) - 8 * (i / 2);
  if (left > 1) return 0xffffffffU;
  return left > 0 ? 0xffffU : 0;
}

// Register `i` (0-3) of an accumulator: row of the tile (a key, or an element of v), and column of
// the tile (a query). A lane has the same two columns in every accumulator.
constexpr int AccumulatorRow(int lane, int i) { return lane / 4 + 8 * (i / 2); }
constexpr int AccumulatorColumn(int lane, int i) { return 2 * (lane % 4) + i % 2; }

// Byte offset of a register of the totals, after the stages: a bank for each lane.
template <typename Shape>
constexpr int TotalOffset(int thread, int tile, int dim_tile, int i) {
  const int index = (tile * Shape::kDimTiles + dim_tile) * 4 + i;
  return Shape::kStagesBytes + (index * Shape::kThreads + thread) * 4;
}

}  // namespace m1::cuda
