// What operations are given beside tensors: the grids, and which rows of a step belong to whom.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor/matrix_view.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Lightning attention folds its state at absolute positions that are multiples of this.
inline constexpr int64_t kLightningChunk = 32;
// Tokens of a KV block, and keys of one step of the online softmax.
inline constexpr int64_t kKvBlockTokens = 64;
// Keys that are reduced from scratch before results are merged in order.
inline constexpr int64_t kSoftmaxSegmentKeys = 1024;

enum class Epilogue : uint8_t { kNone, kSilu };

// out = epilogue(x w^T) for an x that several share; see KernelBackend::Linears.
struct LinearProduct {
  MatrixView w;  // [N, K]
  Epilogue epilogue = Epilogue::kNone;
  TensorView out;  // [rows, N]
};

// Rows [row_begin, row_begin + num_rows) of a step belong to one sequence and stand at positions
// first_position, first_position + 1, ...
struct SequenceRows {
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
};

// One lightning layer's memory of one sequence.
struct LightningSequence {
  SequenceRows rows;
  TensorView state;   // fp32 [num_heads, head_dim of k, head_dim of v]; S at the last grid line
  TensorView open_k;  // act [num_heads, kLightningChunk, head_dim]; rows since that line
  TensorView open_v;  // act [num_heads, kLightningChunk, head_dim]
};

// One softmax layer's keys and values of one sequence: token p is in block block_table[p / 64], at
// row p % 64.
struct PagedSequence {
  SequenceRows rows;
  std::span<const int32_t> block_table;
};

// One softmax layer's pool.
// Shape of both: act [num_blocks, num_kv_heads, kKvBlockTokens, head_dim].
struct KvPool {
  TensorView k;
  TensorView v;
};

// Integer products take rows of at most so many elements: 127 * 127 times that fits int32.
inline constexpr int64_t kMaxQuantizedK = int64_t{1} << 17;

// Rows [row_begin, row_begin + num_rows) go through this expert.
struct ExpertGroup {
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  MatrixView w1;  // [intermediate, hidden]
  MatrixView w2;  // [hidden, intermediate]
  MatrixView w3;  // [intermediate, hidden]
};

}  // namespace m1
