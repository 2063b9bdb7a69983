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

enum class ExactFunction : uint8_t { kExp, kLog, kSigmoid, kSilu };

}  // namespace m1
