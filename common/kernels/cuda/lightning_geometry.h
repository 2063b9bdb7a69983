// Shared memory and grid of lightning attention; plain functions for kernel, launch and tests.
//
// A block has one head of one sequence, a thread one column e of v, of the state and of the output:
// so a state is read once per group of rows, by whole lines, and nobody shares an element of it.
#pragma once

#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

// The same as m1::kLightningChunk.
inline constexpr int kChunkRows = 32;
inline constexpr int kDotLanes = 16;
inline constexpr int kMaxLightningHeadDim = 256;

constexpr bool TakesLightningHeadDim(int head_dim) {
  return head_dim % kWarpLanes == 0 && head_dim <= kMaxLightningHeadDim;
}

// Floats from one row of q, k or v in shared memory to the next. The two halves of a warp read
// neighbouring rows: 16 floats more put them on different banks.
constexpr int LightningRowStride(int head_dim) { return head_dim + kDotLanes; }

// Byte offsets: k and v of the chunk [kChunkRows, stride], q of a group of rows [rows, stride],
// weights [rows, kChunkRows], all as floats.
struct LightningShared {
  int k;
  int v;
  int q;
  int weights;
  int bytes;
};

constexpr LightningShared LightningLayout(int head_dim, int group_rows) {
  constexpr int kFloat = static_cast<int>(sizeof(float));
  const int matrix = kChunkRows * LightningRowStride(head_dim) * kFloat;
  const int q_bytes = group_rows * LightningRowStride(head_dim) * kFloat;
  const int q = 2 * matrix;
  const int weights = q + q_bytes;
  return {0, matrix, q, weights, weights + group_rows * kChunkRows * kFloat};
}

constexpr LaunchGrid LightningGrid(int num_sequences, int heads, int head_dim, int group_rows) {
  return {{heads, num_sequences, 1}, head_dim, LightningLayout(head_dim, group_rows).bytes};
}

// A step of a sequence's rows: those that stand in one chunk.
struct ChunkRows {
  int first;  // of the rows, in the chunk
  int count;
  bool fills;  // the chunk's last row is among them
};

constexpr ChunkRows RowsInChunk(int64_t position, int rows_left) {
  const auto first = static_cast<int>(position % kChunkRows);
  const int room = kChunkRows - first;
  const int count = rows_left < room ? rows_left : room;
  return {first, count, count == room};
}

}  // namespace m1::cuda
