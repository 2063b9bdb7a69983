// What the lightning attention kernel is given. Pointers are device memory; Act is float or Bf16.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/lightning_geometry.h"
#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

// One layer's memory of one sequence, as LightningSequence of operands.h.
template <typename Act>
struct LightningMemory {
  int64_t first_position;
  int32_t row_begin;
  int32_t num_rows;
  float* state;  // [heads, head_dim of k, head_dim of v]
  Act* open_k;   // [heads, kChunkRows, head_dim]
  Act* open_v;   // [heads, kChunkRows, head_dim]
};

template <typename Act>
struct LightningArgs {
  const Act* qkv;                         // [rows, heads, 3, head_dim]
  const float* decays;                    // [heads]
  const LightningMemory<Act>* sequences;  // [num_sequences]
  float* out;                             // [rows, heads, head_dim]
  int32_t num_sequences;
  int32_t heads;
  int32_t head_dim;  // a multiple of 32, at most kMaxLightningHeadDim

  constexpr bool operator==(const LightningArgs&) const = default;
};

// Decode: no sequence has more than one row. The bits are the same either way.
enum class LightningRows { kDecode, kPrompt };
inline constexpr int kPromptRows = 8;  // of a chunk that meet the state together

template <typename Act>
constexpr LaunchGrid GridOf(const LightningArgs<Act>& args, LightningRows rows) {
  return LightningGrid(args.num_sequences, args.heads, args.head_dim,
                       rows == LightningRows::kDecode ? 1 : kPromptRows);
}

}  // namespace m1::cuda
