// Shapes and index maps of the tensor-core product: which thread copies, reads and writes what.
// Plain functions; the kernel (product_kernel.h), its launch and the CPU tests use these alone.
//
// A block computes a tile of `kFeatures` output features for `kTokens` rows of x. Weights are the
// wide operand (M = 16) of every mma.sync.m16n8k16, rows of x the narrow one (N = 8), whatever the
// number of rows: an output element is one accumulator that takes K in steps of 16, ascending, in
// one block. So its bits do not depend on which of the shapes below computes it.
#pragma once

#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

inline constexpr int kMmaM = 16;
inline constexpr int kMmaN = 8;
inline constexpr int kMmaK = 16;

// K elements of a slice: the part of K that a stage of the pipeline holds, one shared row of 128
// bytes for each weight row and row of x.
inline constexpr int kSliceK = 64;
inline constexpr int kChunkBytes = 16;
inline constexpr int kChunkElements = 8;
inline constexpr int kRowChunks = kSliceK / kChunkElements;
inline constexpr int kSharedRowBytes = kSliceK * 2;

// Byte offset of a 16-byte chunk of a row within its stage. The exclusive or spreads the chunks of
// one column over all banks, so that ldmatrix (8 rows, one column) never meets a bank twice.
constexpr int SharedOffset(int row, int chunk) {
  return row * kSharedRowBytes + (chunk ^ (row % kRowChunks)) * kChunkBytes;
}

// kMatrices: 2 multiplies the same rows by two matrices (w1 and w3). kParts: 3 multiplies three
// terms hi + mid + lo of an fp32 row, each bf16, by the same matrix.
template <int features, int tokens, int warps_m, int warps_n, int stages, int matrices = 1,
          int parts = 1>
struct ProductShape {
  static constexpr int kFeatures = features;
  static constexpr int kTokens = tokens;
  static constexpr int kWarpsM = warps_m;
  static constexpr int kWarpsN = warps_n;
  static constexpr int kStages = stages;
  static constexpr int kMatrices = matrices;
  static constexpr int kParts = parts;

  static constexpr int kThreads = kWarpLanes * kWarpsM * kWarpsN;
  static constexpr int kTilesM = kFeatures / kWarpsM / kMmaM;  // of a warp, for each matrix
  static constexpr int kTilesN = kTokens / kWarpsN / kMmaN;    // of a warp, for each part
  static constexpr int kWeightRows = kMatrices * kFeatures;
  static constexpr int kStageRows = kWeightRows + kParts * kTokens;
  static constexpr int kStageBytes = kStageRows * kSharedRowBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kCopies = kStageRows * kRowChunks / kThreads;  // of a thread, each slice

  static_assert(kTilesM * kWarpsM * kMmaM == kFeatures);
  static_assert(kTilesN * kWarpsN * kMmaN == kTokens);
  static_assert(kCopies * kThreads == kStageRows * kRowChunks);
  static_assert(kStages >= 2);
};

// A chunk of a stage. Rows of a stage: kFeatures of each matrix, then kTokens of each part.
struct StageChunk {
  int row;
  int chunk;
};

// The copy-th chunk that a thread brings in. Eight threads in a row read 128 bytes in a row.
template <typename Shape>
constexpr StageChunk CopiedChunk(int thread, int copy) {
  const int id = copy * Shape::kThreads + thread;
  return {id / kRowChunks, id % kRowChunks};
}

template <typename Shape>
constexpr int WarpM(int warp) {
  return warp % Shape::kWarpsM;
}
template <typename Shape>
constexpr int WarpN(int warp) {
  return warp / Shape::kWarpsM;
}

// Where a lane points ldmatrix.x4 for operand A: 16 weight rows, K step `step` of the slice. The
// matrices are rows 0-7 and 8-15 of the lower eight k, then of the upper eight.
template <typename Shape>
constexpr StageChunk WeightChunk(int warp, int lane, int matrix, int tile_m, int step) {
  const int first =
      matrix * Shape::kFeatures + (WarpM<Shape>(warp) * Shape::kTilesM + tile_m) * kMmaM;
  return {first + lane % 16, 2 * step + lane / 16};
}

// The same for operand B: 8 rows of x; the four matrices are the four chunks of half a slice, which
// serve K steps 2 * half and 2 * half + 1.
template <typename Shape>
constexpr StageChunk TokenChunk(int warp, int lane, int part, int tile_n, int half) {
  const int first = Shape::kWeightRows + part * Shape::kTokens +
                    (WarpN<Shape>(warp) * Shape::kTilesN + tile_n) * kMmaN;
  return {first + lane % 8, 4 * half + lane / 8};
}

// An output element of a block's tile.
struct TileElement {
  int feature;
  int token;
};

// The element that a lane holds in register `i` (0-3) of an accumulator.
template <typename Shape>
constexpr TileElement AccumulatorElement(int warp, int lane, int tile_m, int tile_n, int i) {
  return {(WarpM<Shape>(warp) * Shape::kTilesM + tile_m) * kMmaM + lane / 4 + 8 * (i / 2),
          (WarpN<Shape>(warp) * Shape::kTilesN + tile_n) * kMmaN + 2 * (lane % 4) + i % 2};
}

// A block's rows: tile `tile` of the rows of group `group`; group -1 where there are none left.
struct RowTile {
  int group;
  int tile;
};

// Blocks along x walk the row tiles of all groups, so that the tiles of a group run together and
// its weights are read once. `num_rows(g)` is the number of rows of group g.
template <typename NumRows>
constexpr RowTile FindRowTile(int block_x, int num_groups, int tile_rows, NumRows num_rows) {
  int tile = block_x;
  for (int group = 0; group < num_groups; ++group) {
    const int tiles = CeilDiv(num_rows(group), tile_rows);
    if (tile < tiles) return {group, tile};
    tile -= tiles;
  }
  return {-1, 0};
}

// Shared memory that a block may ask for, by compute capability times ten.
constexpr int MaxSharedBytes(int capability) { return capability >= 90 ? 227 * 1024 : 163 * 1024; }

// The shapes in use, by rows of the largest group: few rows stream the weights through many small
// blocks, many rows reuse them from shared memory.
enum class RowCount { kOne, kFew, kMany };

constexpr RowCount ClassifyRows(int rows) {
  if (rows <= 8) return RowCount::kOne;
  return rows <= 32 ? RowCount::kFew : RowCount::kMany;
}

using LinearOne = ProductShape<32, 8, 2, 1, 8>;
using LinearFew = ProductShape<64, 32, 4, 1, 5>;
using LinearMany = ProductShape<128, 128, 4, 2, 3>;
using GatedOne = ProductShape<32, 8, 2, 1, 6, 2>;
using GatedFew = ProductShape<64, 32, 4, 1, 4, 2>;
using GatedMany = ProductShape<64, 128, 4, 2, 3, 2>;
using SplitOne = ProductShape<32, 8, 2, 1, 6, 1, 3>;
using SplitFew = ProductShape<64, 32, 4, 1, 4, 1, 3>;
using SplitMany = ProductShape<128, 32, 4, 2, 3, 1, 3>;

}  // namespace m1::cuda
