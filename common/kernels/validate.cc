#include "common/kernels/validate.h"

#include <limits>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {

absl::Status CheckAct(absl::string_view what, ConstTensorView view) {
  if (view.dtype() == DType::kF32 || view.dtype() == DType::kBf16) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", DTypeName(view.dtype()), ", wanted fp32 or bf16"));
}

absl::Status CheckDType(absl::string_view what, ConstTensorView view, DType dtype) {
  if (view.dtype() == dtype) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", DTypeName(view.dtype()), ", wanted ", DTypeName(dtype)));
}

absl::Status CheckRank(absl::string_view what, ConstTensorView view, int rank) {
  if (view.rank() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has shape ", view.shape().ToString(), ", wanted ", rank, " axes"));
}

absl::Status CheckShape(absl::string_view what, ConstTensorView view, const Shape& shape) {
  if (view.shape() == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has shape ", view.shape().ToString(), ", wanted ", shape.ToString()));
}

absl::Status CheckIndex(absl::string_view what, int64_t index, int64_t size) {
  if (index >= 0 && index < size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " ", index, " is outside [0, ", size, ")"));
}

absl::Status CheckRows(absl::string_view what, const SequenceRows& rows, int64_t num_rows) {
  if (rows.row_begin >= 0 && rows.num_rows >= 0 && rows.first_position >= 0 &&
      rows.row_begin <= num_rows && rows.num_rows <= num_rows - rows.row_begin &&
      rows.first_position <= std::numeric_limits<int64_t>::max() - rows.num_rows) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": rows [", rows.row_begin, ", +", rows.num_rows, ") at position ",
                   rows.first_position, " do not fit a step of ", num_rows, " rows"));
}

namespace {

absl::Status CheckF32(absl::string_view what, ConstTensorView view, const Shape& shape) {
  M1_RETURN_IF_ERROR(CheckDType(what, view, DType::kF32));
  return CheckShape(what, view, shape);
}

absl::Status CheckAct(absl::string_view what, ConstTensorView view, const Shape& shape) {
  M1_RETURN_IF_ERROR(m1::CheckAct(what, view));
  return CheckShape(what, view, shape);
}

absl::Status CheckGroup(const ExpertGroup& group, int64_t rows, int64_t hidden,
                        int64_t intermediate) {
  if (group.row_begin < 0 || group.num_rows < 0 || group.row_begin > rows ||
      group.num_rows > rows - group.row_begin) {
    return absl::InvalidArgumentError(absl::StrCat("expert_ffn: group [", group.row_begin, ", +",
                                                   group.num_rows, ") is outside ", rows, " rows"));
  }
  M1_RETURN_IF_ERROR(CheckMatrix("expert_ffn: w1", group.w1, {intermediate, hidden}));
  M1_RETURN_IF_ERROR(CheckMatrix("expert_ffn: w3", group.w3, {intermediate, hidden}));
  return CheckMatrix("expert_ffn: w2", group.w2, {hidden, intermediate});
}

absl::Status CheckIndices(absl::string_view what, std::span<const int32_t> indices, int64_t size) {
  for (const int32_t index : indices) M1_RETURN_IF_ERROR(CheckIndex(what, index, size));
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateTransfer(ConstTensorView x, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("transfer: out", out, x.dtype()));
  return CheckShape("transfer: out", out, x.shape());
}

absl::Status ValidateCopyRows(ConstTensorView x, std::span<const int32_t> x_rows,
                              ConstTensorView out, std::span<const int32_t> out_rows) {
  M1_RETURN_IF_ERROR(CheckDType("copy_rows: out", out, x.dtype()));
  if (x.rank() < 1) return absl::InvalidArgumentError("copy_rows: x has no rows");
  Shape wanted{out.rank() < 1 ? 0 : out.dim(0)};
  for (int axis = 1; axis < x.rank(); ++axis) wanted.Append(x.dim(axis));
  M1_RETURN_IF_ERROR(CheckShape("copy_rows: out", out, wanted));
  if (x_rows.size() != out_rows.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("copy_rows: ", x_rows.size(), " rows of x for ", out_rows.size(), " of out"));
  }
  M1_RETURN_IF_ERROR(CheckIndices("copy_rows: x: row", x_rows, x.dim(0)));
  return CheckIndices("copy_rows: out: row", out_rows, out.dim(0));
}

absl::Status ValidateEmbed(std::span<const int32_t> ids, ConstTensorView table,
                           ConstTensorView out) {
  M1_RETURN_IF_ERROR(m1::CheckAct("embed: table", table));
  M1_RETURN_IF_ERROR(CheckRank("embed: table", table, 2));
  M1_RETURN_IF_ERROR(CheckF32("embed: out", out, {static_cast<int64_t>(ids.size()), table.dim(1)}));
  return CheckIndices("embed: id", ids, table.dim(0));
}

absl::Status ValidateRmsNorm(ConstTensorView x, ConstTensorView weight, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("rms_norm: x", x, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("rms_norm: x", x, 2));
  M1_RETURN_IF_ERROR(CheckAct("rms_norm: weight", weight, {x.dim(1)}));
  return CheckF32("rms_norm: out", out, x.shape());
}

absl::Status ValidateRound(ConstTensorView x, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("round: x", x, DType::kF32));
  return CheckAct("round: out", out, x.shape());
}

absl::Status ValidateLinear(ConstTensorView x, const MatrixView& w, ConstTensorView out) {
  M1_RETURN_IF_ERROR(m1::CheckAct("linear: x", x));
  M1_RETURN_IF_ERROR(CheckRank("linear: x", x, 2));
  M1_RETURN_IF_ERROR(CheckRank("linear: w", w.values, 2));
  M1_RETURN_IF_ERROR(CheckMatrix("linear: w", w, {w.dim(0), x.dim(1)}));
  return CheckAct("linear: out", out, {x.dim(0), w.dim(0)});
}

absl::Status ValidateGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                             ConstTensorView out) {
  M1_RETURN_IF_ERROR(m1::CheckAct("gated_up: x", x));
  M1_RETURN_IF_ERROR(CheckRank("gated_up: x", x, 2));
  M1_RETURN_IF_ERROR(CheckRank("gated_up: gate", gate.values, 2));
  M1_RETURN_IF_ERROR(CheckMatrix("gated_up: gate", gate, {gate.dim(0), x.dim(1)}));
  M1_RETURN_IF_ERROR(CheckMatrix("gated_up: up", up, gate.shape()));
  M1_RETURN_IF_ERROR(CheckSameFormat("gated_up: up", up, gate));
  M1_RETURN_IF_ERROR(CheckDType("gated_up: out", out, x.dtype()));
  return CheckShape("gated_up: out", out, {x.dim(0), gate.dim(0)});
}

absl::Status ValidateExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                               ConstTensorView mid, ConstTensorView out) {
  M1_RETURN_IF_ERROR(m1::CheckAct("expert_ffn: x", x));
  M1_RETURN_IF_ERROR(CheckRank("expert_ffn: x", x, 2));
  M1_RETURN_IF_ERROR(CheckDType("expert_ffn: mid", mid, x.dtype()));
  M1_RETURN_IF_ERROR(CheckRank("expert_ffn: mid", mid, 2));
  M1_RETURN_IF_ERROR(CheckShape("expert_ffn: mid", mid, {x.dim(0), mid.dim(1)}));
  M1_RETURN_IF_ERROR(CheckDType("expert_ffn: out", out, x.dtype()));
  M1_RETURN_IF_ERROR(CheckShape("expert_ffn: out", out, x.shape()));
  for (const ExpertGroup& group : groups) {
    M1_RETURN_IF_ERROR(CheckGroup(group, x.dim(0), x.dim(1), mid.dim(1)));
    for (const MatrixView* weight : {&group.w1, &group.w2, &group.w3}) {
      M1_RETURN_IF_ERROR(CheckSameFormat("expert_ffn: weight", *weight, groups[0].w1));
    }
    for (const ExpertGroup* other = groups.data(); other != &group; ++other) {
      if (group.num_rows > 0 && other->num_rows > 0 &&
          group.row_begin < other->row_begin + other->num_rows &&
          other->row_begin < group.row_begin + group.num_rows) {
        return absl::InvalidArgumentError(absl::StrCat(
            "expert_ffn: groups at rows ", other->row_begin, " and ", group.row_begin, " overlap"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateScaledAdd(ConstTensorView x, ConstTensorView y, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("scaled_add: x", x, DType::kF32));
  M1_RETURN_IF_ERROR(CheckF32("scaled_add: y", y, x.shape()));
  return CheckF32("scaled_add: out", out, x.shape());
}

absl::Status ValidateSigmoidMul(ConstTensorView gate, ConstTensorView x, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("sigmoid_mul: x", x, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("sigmoid_mul: x", x, 2));
  M1_RETURN_IF_ERROR(CheckF32("sigmoid_mul: gate", gate, x.shape()));
  return CheckAct("sigmoid_mul: out", out, x.shape());
}

absl::Status ValidateTopKGate(ConstTensorView logits, ConstTensorView ids,
                              ConstTensorView weights) {
  M1_RETURN_IF_ERROR(CheckDType("top_k_gate: logits", logits, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("top_k_gate: logits", logits, 2));
  M1_RETURN_IF_ERROR(CheckRank("top_k_gate: ids", ids, 2));
  M1_RETURN_IF_ERROR(CheckDType("top_k_gate: ids", ids, DType::kI32));
  M1_RETURN_IF_ERROR(CheckShape("top_k_gate: ids", ids, {logits.dim(0), ids.dim(1)}));
  if (ids.dim(1) < 1 || ids.dim(1) > logits.dim(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k_gate: k is ", ids.dim(1), ", wanted 1 to ", logits.dim(1)));
  }
  return CheckF32("top_k_gate: weights", weights, ids.shape());
}

absl::Status ValidateCombineExperts(ConstTensorView y, ConstTensorView weights,
                                    ConstTensorView out) {
  M1_RETURN_IF_ERROR(m1::CheckAct("combine_experts: y", y));
  M1_RETURN_IF_ERROR(CheckRank("combine_experts: y", y, 3));
  if (y.dim(1) < 1) return absl::InvalidArgumentError("combine_experts: k is 0, wanted 1 or more");
  M1_RETURN_IF_ERROR(CheckF32("combine_experts: weights", weights, {y.dim(0), y.dim(1)}));
  return CheckF32("combine_experts: out", out, {y.dim(0), y.dim(2)});
}

absl::Status ValidateSharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                                     ConstTensorView coefficient_logit, ConstTensorView out) {
  M1_RETURN_IF_ERROR(CheckDType("shared_expert_mix: moe", moe, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("shared_expert_mix: moe", moe, 2));
  M1_RETURN_IF_ERROR(CheckF32("shared_expert_mix: shared", shared, moe.shape()));
  M1_RETURN_IF_ERROR(
      CheckF32("shared_expert_mix: coefficient_logit", coefficient_logit, {moe.dim(0), 1}));
  return CheckF32("shared_expert_mix: out", out, moe.shape());
}

}  // namespace m1
