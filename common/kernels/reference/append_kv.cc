#include "common/base/status_macros.h"
#include "common/kernels/reference/attention_ops.h"
#include "common/kernels/reference/paged_checks.h"

namespace m1 {

absl::Status ReferenceAppendKv(ConstTensorView k, ConstTensorView v,
                               std::span<const PagedSequence> sequences, const KvPool& pool) {
  M1_RETURN_IF_ERROR(CheckKvPool(pool));
  const int64_t heads = pool.k.dim(1);
  const int64_t head_dim = pool.k.dim(3);
  if (k.rank() != 3 || !(k.shape() == v.shape()) || k.dim(1) != heads || k.dim(2) != head_dim ||
      k.dtype() != pool.k.dtype() || v.dtype() != k.dtype()) {
    return absl::InvalidArgumentError("append_kv: k and v must be [rows, num_kv_heads, head_dim]");
  }
  M1_RETURN_IF_ERROR(CheckPagedSequences(sequences, k.dim(0), pool));
  for (const PagedSequence& sequence : sequences) {
    for (int64_t r = 0; r < sequence.rows.num_rows; ++r) {
      const int64_t position = sequence.rows.first_position + r;
      const int64_t block = sequence.block_table[static_cast<size_t>(position / kKvBlockTokens)];
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t from = ((sequence.rows.row_begin + r) * heads + head) * head_dim;
        const int64_t to =
            ((block * heads + head) * kKvBlockTokens + position % kKvBlockTokens) * head_dim;
        for (int64_t i = 0; i < head_dim; ++i) {
          StoreAct(pool.k, to + i, LoadAct(k, from + i));
          StoreAct(pool.v, to + i, LoadAct(v, from + i));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
