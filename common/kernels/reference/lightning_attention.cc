#include <array>
#include <cmath>

#include "common/base/status_macros.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/attention_ops.h"

namespace m1 {
namespace {

absl::Status Check(ConstTensorView qkv, ConstTensorView decays,
                   std::span<const LightningSequence> sequences, TensorView out) {
  if (qkv.rank() != 4 || qkv.dim(2) != 3 || !IsAct(qkv.dtype()) || out.dtype() != DType::kF32 ||
      !(out.shape() == Shape{qkv.dim(0), qkv.dim(1), qkv.dim(3)})) {
    return absl::InvalidArgumentError(
        "lightning_attention: qkv must be [rows, num_heads, 3, head_dim] and out fp32 without the "
        "3");
  }
  const int64_t heads = qkv.dim(1);
  const int64_t head_dim = qkv.dim(3);
  if (decays.dtype() != DType::kF32 || !(decays.shape() == Shape{heads})) {
    return absl::InvalidArgumentError("lightning_attention: decays must be fp32 [num_heads]");
  }
  const Shape chunk{heads, kLightningChunk, head_dim};
  for (const LightningSequence& sequence : sequences) {
    const SequenceRows& rows = sequence.rows;
    if (rows.row_begin < 0 || rows.num_rows < 0 || rows.first_position < 0 ||
        rows.row_begin + rows.num_rows > qkv.dim(0)) {
      return absl::InvalidArgumentError(
          "lightning_attention: a sequence's rows are outside the step");
    }
    if (sequence.state.dtype() != DType::kF32 ||
        !(sequence.state.shape() == Shape{heads, head_dim, head_dim}) ||
        sequence.open_k.dtype() != qkv.dtype() || sequence.open_v.dtype() != qkv.dtype() ||
        !(sequence.open_k.shape() == chunk) || !(sequence.open_v.shape() == chunk)) {
      return absl::InvalidArgumentError(
          "lightning_attention: a sequence's state or open chunk has the wrong shape or dtype");
    }
  }
  return absl::OkStatus();
}

// One head's memory in one sequence.
struct Head {
  float decay;
  int64_t head_dim;
  TensorView state;   // [head_dim, head_dim]
  TensorView open_k;  // [kLightningChunk, head_dim]
  TensorView open_v;  // [kLightningChunk, head_dim]
};

// Row i of the chunk, whose k and v are already stored; q's elements begin at q_begin.
void AttendRow(const Head& head, ConstTensorView qkv, int64_t q_begin, int64_t i, float* out) {
  const int64_t head_dim = head.head_dim;
  const DType act = qkv.dtype();
  std::array<float, kLightningChunk> w{};
  for (int64_t b = 0; b <= i; ++b) {
    const float decay = ExactExp(-head.decay * static_cast<float>(i - b));
    const float qk = DotForm(qkv, q_begin, head.open_k, b * head_dim, head_dim);
    w[static_cast<size_t>(b)] = RoundToAct(decay * qk, act);
  }
  const float* state = head.state.data_as<float>();
  for (int64_t e = 0; e < head_dim; ++e) {
    const float inter = ColumnForm(
        DType::kF32, head_dim, 0.0f, [&](int64_t c) { return LoadAct(qkv, q_begin + c); },
        [&](int64_t c) { return state[c * head_dim + e]; });
    const float intra = ColumnForm(
        act, i + 1, 0.0f, [&](int64_t b) { return w[static_cast<size_t>(b)]; },
        [&](int64_t b) { return LoadAct(head.open_v, b * head_dim + e); });
    out[e] = std::fma(ExactExp(-head.decay * static_cast<float>(i + 1)), inter, intra);
  }
}

// Folds the full open chunk into the state.
void Fold(const Head& head) {
  const int64_t head_dim = head.head_dim;
  const DType act = head.open_k.dtype();
  float* state = head.state.data_as<float>();
  const float chunk_decay = ExactExp(-head.decay * static_cast<float>(kLightningChunk));
  for (int64_t c = 0; c < head_dim; ++c) {
    for (int64_t e = 0; e < head_dim; ++e) {
      const float fold = ColumnForm(
          act, kLightningChunk, 0.0f,
          [&](int64_t b) {
            const float decay = ExactExp(-head.decay * static_cast<float>(kLightningChunk - 1 - b));
            return RoundToAct(LoadAct(head.open_k, b * head_dim + c) * decay, act);
          },
          [&](int64_t b) { return LoadAct(head.open_v, b * head_dim + e); });
      float& s = state[c * head_dim + e];
      s = std::fma(s, chunk_decay, fold);
    }
  }
}

}  // namespace

absl::Status ReferenceLightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                         std::span<const LightningSequence> sequences,
                                         TensorView out) {
  M1_RETURN_IF_ERROR(Check(qkv, decays, sequences, out));
  const int64_t heads = qkv.dim(1);
  const int64_t head_dim = qkv.dim(3);
  for (const LightningSequence& sequence : sequences) {
    for (int64_t h = 0; h < heads; ++h) {
      const Head head{decays.data_as<float>()[h], head_dim, sequence.state[h], sequence.open_k[h],
                      sequence.open_v[h]};
      for (int64_t r = 0; r < sequence.rows.num_rows; ++r) {
        const int64_t row = sequence.rows.row_begin + r;
        const int64_t i = (sequence.rows.first_position + r) % kLightningChunk;
        const int64_t q_begin = (row * heads + h) * 3 * head_dim;
        for (int64_t c = 0; c < head_dim; ++c) {
          StoreAct(head.open_k, i * head_dim + c, LoadAct(qkv, q_begin + head_dim + c));
          StoreAct(head.open_v, i * head_dim + c, LoadAct(qkv, q_begin + 2 * head_dim + c));
        }
        AttendRow(head, qkv, q_begin, i, out.data_as<float>() + (row * heads + h) * head_dim);
        if (i == kLightningChunk - 1) Fold(head);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
