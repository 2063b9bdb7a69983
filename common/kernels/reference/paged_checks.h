// Shape checks that AppendKv and SoftmaxAttention share.
#pragma once

#include <span>

#include "absl/status/status.h"

#include "common/kernels/backend.h"
#include "common/kernels/reference/act_row.h"

namespace m1 {

// Rows inside [0, num_rows), and a block of the pool for every position up to the last row's.
inline absl::Status CheckPagedSequences(std::span<const PagedSequence> sequences, int64_t num_rows,
                                        const KvPool& pool) {
  for (const PagedSequence& sequence : sequences) {
    const SequenceRows& rows = sequence.rows;
    if (rows.row_begin < 0 || rows.num_rows < 0 || rows.first_position < 0 ||
        rows.row_begin + rows.num_rows > num_rows) {
      return absl::InvalidArgumentError("attention: a sequence's rows are outside the step");
    }
    const int64_t end = rows.first_position + rows.num_rows;
    const int64_t blocks = (end + kKvBlockTokens - 1) / kKvBlockTokens;
    if (rows.num_rows > 0 && static_cast<int64_t>(sequence.block_table.size()) < blocks) {
      return absl::InvalidArgumentError("attention: the block table is shorter than the sequence");
    }
    for (const int32_t block : sequence.block_table) {
      if (block < 0 || block >= pool.k.dim(0)) {
        return absl::InvalidArgumentError("attention: a block id is outside the pool");
      }
    }
  }
  return absl::OkStatus();
}

inline absl::Status CheckKvPool(const KvPool& pool) {
  if (pool.k.rank() != 4 || !(pool.k.shape() == pool.v.shape()) ||
      pool.k.dtype() != pool.v.dtype() || !IsAct(pool.k.dtype()) ||
      pool.k.dim(2) != kKvBlockTokens || pool.k.dim(1) < 1 || pool.k.dim(3) < 1) {
    return absl::InvalidArgumentError(
        "attention: pools must be [num_blocks, num_kv_heads, 64, head_dim]");
  }
  return absl::OkStatus();
}

}  // namespace m1
