#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/status_macros.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/reference/attention_ops.h"
#include "common/kernels/reference/paged_checks.h"

namespace m1 {
namespace {

// (m, l, o) of the online softmax: over one segment, or over the segments merged so far.
struct Partial {
  explicit Partial(int64_t head_dim) : o(static_cast<size_t>(head_dim), 0.0f) {}
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  std::vector<float> o;
};

// One row of one query head.
struct Query {
  ConstTensorView q;
  int64_t begin;  // of the head's elements in q
  int64_t position;
  int64_t head_dim;
  float scale;
};

// Adds the 64 keys of the block that starts at key `first_key`; `begin` is its first element in the
// pool.
void AddBlock(const Query& query, const KvPool& pool, int64_t begin, int64_t first_key,
              Partial& partial) {
  const int64_t visible = std::min(kKvBlockTokens, query.position + 1 - first_key);
  const int64_t head_dim = query.head_dim;
  std::array<float, kKvBlockTokens> p{};
  float m = partial.m;
  for (int64_t b = 0; b < visible; ++b) {
    const float s =
        query.scale * DotForm(query.q, query.begin, pool.k, begin + b * head_dim, head_dim);
    p[static_cast<size_t>(b)] = s;
    m = s > m ? s : m;
  }
  const float c = std::isinf(partial.m) && partial.m < 0 ? 0.0f : ExactExp(partial.m - m);
  std::array<float, 16> lanes{};
  for (int64_t b = 0; b < kKvBlockTokens; ++b) {
    float& p_b = p[static_cast<size_t>(b)];
    p_b = b < visible ? ExactExp(p_b - m) : 0.0f;
    lanes[static_cast<size_t>(b % 16)] += p_b;
  }
  partial.l = std::fma(partial.l, c, AddLanes(lanes));
  partial.m = m;
  for (int64_t e = 0; e < head_dim; ++e) {
    float& o = partial.o[static_cast<size_t>(e)];
    o = ColumnForm(
        pool.v.dtype(), kKvBlockTokens, o * c,
        [&](int64_t b) { return RoundToAct(p[static_cast<size_t>(b)], pool.v.dtype()); },
        [&](int64_t b) { return b < visible ? LoadAct(pool.v, begin + b * head_dim + e) : 0.0f; });
  }
}

void Merge(const Partial& segment, Partial& total) {
  const float m = segment.m > total.m ? segment.m : total.m;
  const float a = ExactExp(total.m - m);
  const float b = ExactExp(segment.m - m);
  total.m = m;
  total.l = std::fma(segment.l, b, total.l * a);
  for (size_t e = 0; e < total.o.size(); ++e) {
    total.o[e] = std::fma(segment.o[e], b, total.o[e] * a);
  }
}

Partial Attend(const Query& query, const KvPool& pool, std::span<const int32_t> block_table,
               int64_t kv_head) {
  Partial total(query.head_dim);
  for (int64_t begin = 0; begin <= query.position; begin += kSoftmaxSegmentKeys) {
    Partial segment(query.head_dim);
    const int64_t end = std::min(begin + kSoftmaxSegmentKeys, query.position + 1);
    for (int64_t key = begin; key < end; key += kKvBlockTokens) {
      const int64_t block = block_table[static_cast<size_t>(key / kKvBlockTokens)];
      const int64_t pool_row = (block * pool.k.dim(1) + kv_head) * kKvBlockTokens;
      AddBlock(query, pool, pool_row * query.head_dim, key, segment);
    }
    if (begin == 0) {
      total = segment;
    } else {
      Merge(segment, total);
    }
  }
  return total;
}

}  // namespace

absl::Status ReferenceSoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                       const KvPool& pool, TensorView out) {
  M1_RETURN_IF_ERROR(CheckKvPool(pool));
  const int64_t kv_heads = pool.k.dim(1);
  const int64_t head_dim = pool.k.dim(3);
  if (q.rank() != 3 || !(q.shape() == out.shape()) || q.dtype() != pool.k.dtype() ||
      out.dtype() != q.dtype() || q.dim(2) != head_dim || q.dim(1) % kv_heads != 0) {
    return absl::InvalidArgumentError(
        "softmax_attention: q and out must be [rows, num_heads, head_dim] of the pool's dtype");
  }
  M1_RETURN_IF_ERROR(CheckPagedSequences(sequences, q.dim(0), pool));
  const int64_t heads = q.dim(1);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (const PagedSequence& sequence : sequences) {
    for (int64_t r = 0; r < sequence.rows.num_rows; ++r) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t begin = ((sequence.rows.row_begin + r) * heads + head) * head_dim;
        const Query query{q, begin, sequence.rows.first_position + r, head_dim, scale};
        const Partial total = Attend(query, pool, sequence.block_table, head / (heads / kv_heads));
        for (int64_t e = 0; e < head_dim; ++e) {
          StoreAct(out, begin + e, total.o[static_cast<size_t>(e)] / total.l);
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
