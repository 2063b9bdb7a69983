// What the kernels of every instruction set are called with: plain pointers and sizes, already
// validated. No code and no standard library: an inline function of theirs could be compiled with
// AVX-512 here and be the copy that the linker keeps for the baseline.
#pragma once

#include <stdint.h>

namespace m1 {

// Rows of fp32 or bf16.
struct ActIn {
  const void* data;
  bool is_bf16;
};
struct ActOut {
  void* data;
  bool is_bf16;
};

// Items [begin, end).
struct Range {
  int64_t begin;
  int64_t end;
};

// The contracts are in common/kernels/backend.h.
struct EmbedArgs {
  const int32_t* ids;  // [rows]
  ActIn table;         // [vocab, n]
  float* out;          // [rows, n]
  int64_t n;
};

struct RmsNormArgs {
  const float* x;  // [rows, n]
  ActIn weight;    // [n]
  float eps;
  float* out;  // [rows, n]
  int64_t n;
};

struct RoundArgs {
  const float* x;
  ActOut out;
};

struct LinearArgs {
  ActIn x;  // [rows, k]
  ActIn w;  // [n, k]
  bool silu;
  ActOut out;  // [rows, n]
  int64_t k;
  int64_t n;
};

struct GatedUpArgs {
  ActIn x;     // [rows, k]
  ActIn gate;  // [n, k]
  ActIn up;    // [n, k]
  ActOut out;  // [rows, n]
  int64_t k;
  int64_t n;
};

struct ScaledAddArgs {
  float alpha;
  const float* x;
  float beta;
  const float* y;
  float* out;
};

struct SigmoidMulArgs {
  const float* gate;
  const float* x;
  ActOut out;
};

// More experts than this go through the reference.
inline constexpr int64_t kMaxGateExperts = 1024;

struct TopKGateArgs {
  const float* logits;  // [rows, experts]
  int64_t experts;
  int64_t k;
  int32_t* ids;    // [rows, k]
  float* weights;  // [rows, k]
};

struct CombineExpertsArgs {
  ActIn y;               // [rows, k, n]
  const float* weights;  // [rows, k]
  int64_t k;
  float* out;  // [rows, n]
  int64_t n;
};

struct SharedExpertMixArgs {
  const float* moe;                // [rows, n]
  const float* shared;             // [rows, n]
  const float* coefficient_logit;  // [rows]
  float* out;                      // [rows, n]
  int64_t n;
};

struct LogSumExpArgs {
  const float* logits;        // [rows, vocab]
  const float* temperatures;  // [rows]
  float* lse;                 // [rows]
  int64_t vocab;
};

struct RotaryArgs {
  const float* x;    // [rows, heads, head_dim]
  const float* cos;  // [rows, half]
  const float* sin;  // [rows, half]
  ActOut out;        // [rows, heads, head_dim]
  int64_t heads;
  int64_t head_dim;
  int64_t half;
};

// The grids of common/kernels/backend.h, under other names: that header is not for kernels.
inline constexpr int64_t kBlockKeys = 64;
inline constexpr int64_t kSegmentKeys = 1024;
inline constexpr int64_t kChunkRows = 32;

// Rows of one sequence; token p is in block block_table[p / kBlockKeys] of the pool.
struct PagedRows {
  int64_t row_begin;
  int64_t num_rows;
  int64_t first_position;
  const int32_t* block_table;
};

struct AppendKvArgs {
  const void* k;  // [rows, kv_heads] vectors of head_bytes
  const void* v;
  void* pool_k;  // [num_blocks, kv_heads, kBlockKeys] vectors of head_bytes
  void* pool_v;
  int64_t kv_heads;
  int64_t head_bytes;
  const PagedRows* parts;
};

// Attention heads of other sizes go through the reference.
inline constexpr int64_t kMaxHeadDim = 256;
inline constexpr int64_t kHeadDimMultiple = 16;

// Rows times heads of a SoftmaxPart are at most these.
inline constexpr int64_t kMaxQueries = 64;

// Some rows of a sequence under some query heads that share a kv head.
struct SoftmaxPart {
  PagedRows rows;
  int64_t head_begin;
  int64_t num_heads;
};

struct SoftmaxAttentionArgs {
  ActIn q;       // [rows, heads, head_dim]
  ActIn pool_k;  // [num_blocks, kv_heads, kBlockKeys, head_dim]
  ActIn pool_v;
  ActOut out;  // [rows, heads, head_dim]
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  float scale;
  const SoftmaxPart* parts;
};

// The rows of one sequence under one head, and the head's memory in it.
struct LightningPart {
  int64_t row_begin;
  int64_t num_rows;
  int64_t first_position;
  int64_t head;
  float* state;  // [head_dim, head_dim]
  void* open_k;  // [kChunkRows, head_dim]
  void* open_v;
};

struct LightningAttentionArgs {
  ActIn qkv;            // [rows, heads, 3, head_dim]
  const float* decays;  // [heads]
  float* out;           // [rows, heads, head_dim]
  int64_t heads;
  int64_t head_dim;
  const LightningPart* parts;
};

// Sums that the loop of multiplications keeps in flight, of 16 lanes each.
inline constexpr int kLoopSums = 12;

enum class ExactFunction : uint8_t { kExp, kLog, kSigmoid, kSilu };

}  // namespace m1
