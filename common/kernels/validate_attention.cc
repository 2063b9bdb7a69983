#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

absl::Status CheckPool(absl::string_view op, const KvPool& pool) {
  const std::string k = absl::StrCat(op, ": pool.k");
  M1_RETURN_IF_ERROR(CheckAct(k, pool.k));
  M1_RETURN_IF_ERROR(CheckRank(k, pool.k, 4));
  M1_RETURN_IF_ERROR(
      CheckShape(k, pool.k, {pool.k.dim(0), pool.k.dim(1), kKvBlockTokens, pool.k.dim(3)}));
  if (pool.k.dim(1) < 1 || pool.k.dim(3) < 1) {
    return absl::InvalidArgumentError(absl::StrCat(k, " has shape ", pool.k.shape().ToString(),
                                                   ", wanted a head and an element of it"));
  }
  const std::string v = absl::StrCat(op, ": pool.v");
  M1_RETURN_IF_ERROR(CheckDType(v, pool.v, pool.k.dtype()));
  return CheckShape(v, pool.v, pool.k.shape());
}

// Rows of the step, and a block of the pool for every position up to the last row's.
absl::Status CheckSequences(absl::string_view op, std::span<const PagedSequence> sequences,
                            int64_t num_rows, int64_t num_blocks) {
  for (const PagedSequence& sequence : sequences) {
    M1_RETURN_IF_ERROR(CheckRows(op, sequence.rows, num_rows));
    if (sequence.rows.num_rows == 0) continue;
    const int64_t last = sequence.rows.first_position + sequence.rows.num_rows - 1;
    const auto blocks = static_cast<int64_t>(sequence.block_table.size());
    if (last / kKvBlockTokens >= blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat(op, ": block table of ", blocks, " blocks ends before position ", last));
    }
    for (const int32_t block : sequence.block_table) {
      if (block < 0 || block >= num_blocks) {
        return absl::InvalidArgumentError(
            absl::StrCat(op, ": block ", block, " is outside a pool of ", num_blocks));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLightningSequence(const LightningSequence& sequence, ConstTensorView qkv) {
  const int64_t heads = qkv.dim(1);
  const int64_t head_dim = qkv.dim(3);
  const Shape chunk{heads, kLightningChunk, head_dim};
  M1_RETURN_IF_ERROR(CheckRows("lightning_attention", sequence.rows, qkv.dim(0)));
  M1_RETURN_IF_ERROR(CheckDType("lightning_attention: state", sequence.state, DType::kF32));
  M1_RETURN_IF_ERROR(
      CheckShape("lightning_attention: state", sequence.state, {heads, head_dim, head_dim}));
  M1_RETURN_IF_ERROR(CheckDType("lightning_attention: open_k", sequence.open_k, qkv.dtype()));
  M1_RETURN_IF_ERROR(CheckShape("lightning_attention: open_k", sequence.open_k, chunk));
  M1_RETURN_IF_ERROR(CheckDType("lightning_attention: open_v", sequence.open_v, qkv.dtype()));
  return CheckShape("lightning_attention: open_v", sequence.open_v, chunk);
}

}  // namespace

absl::Status ValidateRotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                            ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("rotary: x", x, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("rotary: x", x, 3));
  M1_RETURN_IF_ERROR(CheckAct("rotary: out", out));
  M1_RETURN_IF_ERROR(CheckShape("rotary: out", out, x.shape()));
  M1_RETURN_IF_ERROR(CheckDType("rotary: cos", cos, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("rotary: cos", cos, 2));
  M1_RETURN_IF_ERROR(CheckShape("rotary: cos", cos, {x.dim(0), cos.dim(1)}));
  M1_RETURN_IF_ERROR(CheckDType("rotary: sin", sin, DType::kF32));
  M1_RETURN_IF_ERROR(CheckShape("rotary: sin", sin, cos.shape()));
  if (2 * cos.dim(1) > x.dim(2)) {
    return absl::InvalidArgumentError(absl::StrCat("rotary: a table of ", cos.dim(1),
                                                   " angles is wider than a head of ", x.dim(2)));
  }
  return absl::OkStatus();
}

absl::Status ValidateAppendKv(ConstTensorView k, ConstTensorView v,
                              std::span<const PagedSequence> sequences, const KvPool& pool) {
  M1_RETURN_IF_ERROR(CheckPool("append_kv", pool));
  M1_RETURN_IF_ERROR(CheckDType("append_kv: k", k, pool.k.dtype()));
  M1_RETURN_IF_ERROR(CheckRank("append_kv: k", k, 3));
  M1_RETURN_IF_ERROR(CheckShape("append_kv: k", k, {k.dim(0), pool.k.dim(1), pool.k.dim(3)}));
  M1_RETURN_IF_ERROR(CheckDType("append_kv: v", v, k.dtype()));
  M1_RETURN_IF_ERROR(CheckShape("append_kv: v", v, k.shape()));
  return CheckSequences("append_kv", sequences, k.dim(0), pool.k.dim(0));
}

absl::Status ValidateSoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                      const KvPool& pool, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckPool("softmax_attention", pool));
  M1_RETURN_IF_ERROR(CheckDType("softmax_attention: q", q, pool.k.dtype()));
  M1_RETURN_IF_ERROR(CheckRank("softmax_attention: q", q, 3));
  M1_RETURN_IF_ERROR(CheckShape("softmax_attention: q", q, {q.dim(0), q.dim(1), pool.k.dim(3)}));
  if (q.dim(1) % pool.k.dim(1) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("softmax_attention: ", q.dim(1),
                                                   " query heads do not share ", pool.k.dim(1),
                                                   " kv heads evenly"));
  }
  M1_RETURN_IF_ERROR(CheckDType("softmax_attention: out", out, q.dtype()));
  M1_RETURN_IF_ERROR(CheckShape("softmax_attention: out", out, q.shape()));
  return CheckSequences("softmax_attention", sequences, q.dim(0), pool.k.dim(0));
}

absl::Status ValidateLightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                        std::span<const LightningSequence> sequences,
                                        ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckAct("lightning_attention: qkv", qkv));
  M1_RETURN_IF_ERROR(CheckRank("lightning_attention: qkv", qkv, 4));
  M1_RETURN_IF_ERROR(
      CheckShape("lightning_attention: qkv", qkv, {qkv.dim(0), qkv.dim(1), 3, qkv.dim(3)}));
  M1_RETURN_IF_ERROR(CheckDType("lightning_attention: decays", decays, DType::kF32));
  M1_RETURN_IF_ERROR(CheckShape("lightning_attention: decays", decays, {qkv.dim(1)}));
  M1_RETURN_IF_ERROR(CheckDType("lightning_attention: out", out, DType::kF32));
  M1_RETURN_IF_ERROR(
      CheckShape("lightning_attention: out", out, {qkv.dim(0), qkv.dim(1), qkv.dim(3)}));
  for (const LightningSequence& sequence : sequences) {
    M1_RETURN_IF_ERROR(CheckLightningSequence(sequence, qkv));
  }
  return absl::OkStatus();
}

}  // namespace m1
