#include <algorithm>
#include <cmath>

#include "common/base/status_macros.h"
#include "common/kernels/cpu/cpu_kernel_backend.h"
#include "common/kernels/cpu/views.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/reference/attention_ops.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

static_assert(kBlockKeys == kKvBlockTokens && kSegmentKeys == kSoftmaxSegmentKeys &&
              kChunkRows == kLightningChunk);

// Rows of a sequence that one thread writes into the pool.
constexpr int64_t kAppendRows = 32;

bool IsFastHeadDim(int64_t head_dim) {
  return head_dim <= kMaxHeadDim && head_dim % kHeadDimMultiple == 0;
}

// Calls f with the sequences' rows in parts of at most `part_rows`.
template <typename F>
void ForParts(std::span<const PagedSequence> sequences, int64_t part_rows, F f) {
  for (const PagedSequence& sequence : sequences) {
    const SequenceRows& rows = sequence.rows;
    for (int64_t r = 0; r < rows.num_rows; r += part_rows) {
      f(PagedRows{rows.row_begin + r, std::min(part_rows, rows.num_rows - r),
                  rows.first_position + r, sequence.block_table.data()});
    }
  }
}

// Keys that the rows of all sequences see.
int64_t CountKeys(std::span<const PagedSequence> sequences) {
  int64_t keys = 0;
  for (const PagedSequence& sequence : sequences) {
    const SequenceRows& rows = sequence.rows;
    keys += rows.num_rows * (rows.first_position + rows.num_rows / 2 + 1);
  }
  return keys;
}

// A head's part of a tensor [heads, ...].
void* HeadData(const TensorView& view, int64_t head) { return view[head].data(); }

}  // namespace

absl::Status CpuKernelBackend::Rotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                                      TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRotary(x, cos, sin, out));
  const ScopedFlushDenormals flush;
  const RotaryArgs args{ToFloats(x), ToFloats(cos), ToFloats(sin), ToActOut(out),
                        x.dim(1),    x.dim(2),      cos.dim(1)};
  RunRows(kernels_.rotary, args, x.dim(0), args.heads * args.head_dim);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::AppendKv(ConstTensorView k, ConstTensorView v,
                                        std::span<const PagedSequence> sequences,
                                        const KvPool& pool) {
  M1_RETURN_IF_ERROR(ValidateAppendKv(k, v, sequences, pool));
  std::vector<PagedRows> parts;
  ForParts(sequences, kAppendRows, [&](const PagedRows& rows) { parts.push_back(rows); });
  const AppendKvArgs args{.k = k.data(),
                          .v = v.data(),
                          .pool_k = pool.k.data(),
                          .pool_v = pool.v.data(),
                          .kv_heads = k.dim(1),
                          .head_bytes = k.dim(2) * DTypeBytes(k.dtype()),
                          .parts = parts.data()};
  RunRows(kernels_.append_kv, args, static_cast<int64_t>(parts.size()),
          std::min(kAppendRows, k.dim(0)) * k.dim(1) * k.dim(2));
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::SoftmaxAttention(ConstTensorView q,
                                                std::span<const PagedSequence> sequences,
                                                const KvPool& pool, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSoftmaxAttention(q, sequences, pool, out));
  const ScopedFlushDenormals flush;
  const int64_t heads = q.dim(1);
  const int64_t head_dim = q.dim(2);
  if (!IsFastHeadDim(head_dim)) return ReferenceSoftmaxAttention(q, sequences, pool, out);
  const int64_t kv_heads = pool.k.dim(1);
  const int64_t group = heads / kv_heads;
  // Heads that share a kv head stay together, unless that leaves threads without work.
  int64_t part_heads = std::min(group, kMaxQueries);
  while (part_heads > 1 &&
         static_cast<int64_t>(sequences.size()) * heads < part_heads * pool_.num_threads()) {
    part_heads = part_heads / 2;
  }
  std::vector<SoftmaxPart> parts;
  ForParts(sequences, kMaxQueries / std::max<int64_t>(part_heads, 1), [&](const PagedRows& rows) {
    for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for (int64_t h = 0; h < group; h += part_heads) {
        parts.push_back({rows, kv_head * group + h, std::min(part_heads, group - h)});
      }
    }
  });
  const SoftmaxAttentionArgs args{.q = ToActIn(q),
                                  .pool_k = ToActIn(pool.k),
                                  .pool_v = ToActIn(pool.v),
                                  .out = ToActOut(out),
                                  .heads = heads,
                                  .kv_heads = kv_heads,
                                  .head_dim = head_dim,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                                  .parts = parts.data()};
  RunParts(kernels_.softmax_attention, args, static_cast<int64_t>(parts.size()),
           2 * CountKeys(sequences) * heads * head_dim);
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::LightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                                  std::span<const LightningSequence> sequences,
                                                  TensorView out) {
  M1_RETURN_IF_ERROR(ValidateLightningAttention(qkv, decays, sequences, out));
  const ScopedFlushDenormals flush;
  const int64_t heads = qkv.dim(1);
  const int64_t head_dim = qkv.dim(3);
  if (!IsFastHeadDim(head_dim)) return ReferenceLightningAttention(qkv, decays, sequences, out);
  std::vector<LightningPart> parts;
  for (const LightningSequence& sequence : sequences) {
    const SequenceRows& rows = sequence.rows;
    for (int64_t head = 0; head < heads; ++head) {
      parts.push_back({.row_begin = rows.row_begin,
                       .num_rows = rows.num_rows,
                       .first_position = rows.first_position,
                       .head = head,
                       .state = static_cast<float*>(HeadData(sequence.state, head)),
                       .open_k = HeadData(sequence.open_k, head),
                       .open_v = HeadData(sequence.open_v, head)});
    }
  }
  const LightningAttentionArgs args{.qkv = ToActIn(qkv),
                                    .decays = ToFloats(decays),
                                    .out = ToFloats(out),
                                    .heads = heads,
                                    .head_dim = head_dim,
                                    .parts = parts.data()};
  // q S and the fold; q k and w v of half a chunk.
  const int64_t row_terms = heads * head_dim * (2 * head_dim + kChunkRows);
  RunParts(kernels_.lightning_attention, args, static_cast<int64_t>(parts.size()),
           qkv.dim(0) * row_terms);
  return absl::OkStatus();
}

}  // namespace m1
