// What the kernels over rows and elements are given. Pointers are device memory; Act is float or
// Bf16.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

// Kernels over elements: a thread each.
inline constexpr int kElementThreads = 256;

constexpr LaunchGrid ElementGrid(int64_t elements) {
  const int64_t blocks = (elements + kElementThreads - 1) / kElementThreads;
  return {{static_cast<int>(blocks), 1, 1}, kElementThreads, 0};
}

// A block for each row; its warps add their sums through shared memory.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / kWarpLanes;

constexpr LaunchGrid RmsNormGrid(int rows) {
  return {{rows, 1, 1}, kNormThreads, kNormWarps * static_cast<int>(sizeof(float))};
}

// A warp for each row. Lane l looks after the experts l, l + 32, ...
inline constexpr int kGateThreads = 128;
inline constexpr int kGateWarps = kGateThreads / kWarpLanes;
inline constexpr int kMaxGateExperts = 256;

constexpr LaunchGrid TopKGateGrid(int rows) {
  return {{CeilDiv(rows, kGateWarps), 1, 1}, kGateThreads, 0};
}

template <typename Weight>
struct EmbedArgs {
  const int32_t* ids;   // [rows], inside the table
  const Weight* table;  // [vocab, hidden]
  float* out;           // [rows, hidden]
  int32_t rows;
  int32_t hidden;
  constexpr bool operator==(const EmbedArgs&) const = default;
};

template <typename Weight>
struct RmsNormArgs {
  const float* x;        // [rows, n]
  const Weight* weight;  // [n]
  float* out;            // [rows, n]; may be x
  int32_t n;
  float eps;
  constexpr bool operator==(const RmsNormArgs&) const = default;
};

template <typename Act>
struct RoundArgs {
  const float* x;  // [count]
  Act* out;        // [count]
  int64_t count;
  constexpr bool operator==(const RoundArgs&) const = default;
};

// x = hi + mid + lo, exactly, for finite x of normal size: what a product of three terms
// multiplies.
struct SplitArgs {
  const float* x;  // [count]
  Bf16* parts;     // [3, count]
  int64_t count;
  constexpr bool operator==(const SplitArgs&) const = default;
};

struct ScaledAddArgs {
  float alpha;
  const float* x;  // [count]
  float beta;
  const float* y;  // [count]
  float* out;      // [count]; may be x or y
  int64_t count;
  constexpr bool operator==(const ScaledAddArgs&) const = default;
};

template <typename Act>
struct SigmoidMulArgs {
  const float* gate;  // [count]
  const float* x;     // [count]
  Act* out;           // [count]
  int64_t count;
  constexpr bool operator==(const SigmoidMulArgs&) const = default;
};

struct TopKGateArgs {
  const float* logits;  // [rows, experts]
  int32_t* ids;         // [rows, k]
  float* weights;       // [rows, k]
  int32_t rows;
  int32_t experts;  // at most kMaxGateExperts
  int32_t k;
  constexpr bool operator==(const TopKGateArgs&) const = default;
};

template <typename Act>
struct CombineArgs {
  const Act* y;          // [rows, k, hidden]
  const float* weights;  // [rows, k]
  float* out;            // [rows, hidden]
  int32_t rows;
  int32_t k;
  int32_t hidden;
  constexpr bool operator==(const CombineArgs&) const = default;
};

struct SharedMixArgs {
  const float* moe;                // [rows, hidden]
  const float* shared;             // [rows, hidden]
  const float* coefficient_logit;  // [rows]
  float* out;                      // [rows, hidden]; may be moe
  int32_t rows;
  int32_t hidden;
  constexpr bool operator==(const SharedMixArgs&) const = default;
};

template <typename Act>
struct RotaryArgs {
  const float* x;    // [rows, heads, head_dim]
  const float* cos;  // [rows, half]
  const float* sin;  // [rows, half]
  Act* out;          // [rows, heads, head_dim]
  int32_t rows;
  int32_t heads;
  int32_t head_dim;
  int32_t half;
  constexpr bool operator==(const RotaryArgs&) const = default;
};

// Rows of row_words words each, as bytes.
struct CopyRowsArgs {
  const void* x;
  const int32_t* x_rows;  // [rows]
  void* out;
  const int32_t* out_rows;  // [rows]
  int32_t rows;
  int64_t row_words;
  constexpr bool operator==(const CopyRowsArgs&) const = default;
};

// Where a row's key and value go: row `offset` of block `block` of the pool; nowhere for kNoBlock.
inline constexpr int32_t kNoBlock = -1;
struct KvPlace {
  int32_t block;
  int32_t offset;
};

template <typename Act>
struct AppendKvArgs {
  const Act* k;           // [rows, kv_heads, head_dim]
  const Act* v;           // [rows, kv_heads, head_dim]
  const KvPlace* places;  // [rows]
  Act* pool_k;            // [blocks, kv_heads, block_tokens, head_dim]
  Act* pool_v;            // [blocks, kv_heads, block_tokens, head_dim]
  int32_t rows;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t block_tokens;
  constexpr bool operator==(const AppendKvArgs&) const = default;
};

// The grids of kernels over elements.
constexpr LaunchGrid GridOf(const CopyRowsArgs& args) {
  return ElementGrid(args.rows * args.row_words);
}
template <typename Weight>
constexpr LaunchGrid GridOf(const EmbedArgs<Weight>& args) {
  return ElementGrid(int64_t{args.rows} * args.hidden);
}
// Of `count` elements.
template <typename Args>
requires requires(const Args& args) { args.count; }
constexpr LaunchGrid GridOf(const Args& args) { return ElementGrid(args.count); }
template <typename Act>
constexpr LaunchGrid GridOf(const CombineArgs<Act>& args) {
  return ElementGrid(int64_t{args.rows} * args.hidden);
}
constexpr LaunchGrid GridOf(const SharedMixArgs& args) {
  return ElementGrid(int64_t{args.rows} * args.hidden);
}
template <typename Act>
constexpr LaunchGrid GridOf(const RotaryArgs<Act>& args) {
  return ElementGrid(int64_t{args.rows} * args.heads * args.head_dim);
}
template <typename Act>
constexpr LaunchGrid GridOf(const AppendKvArgs<Act>& args) {
  return ElementGrid(int64_t{args.rows} * args.kv_heads * args.head_dim);
}

}  // namespace m1::cuda
