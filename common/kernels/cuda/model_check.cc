// Which models the operations take: what they would refuse one by one (Check... and NeedBf16 of
// backend_*.cc), and what their grids cannot hold.
#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/cuda/launch.h"

namespace m1::cuda {
namespace {

// Products of few rows, whose tiles are the lowest: blocks along y.
constexpr int64_t kMaxFeatures = int64_t{kMaxGridBlocks} * LinearOne::kFeatures;
static_assert(LinearOne::kFeatures <=
              std::min({GatedOne::kFeatures, SplitOne::kFeatures, QuantLinearOne<0>::kFeatures,
                        QuantGatedOne<0>::kFeatures}));
constexpr int64_t kMaxFloatFeatures = int64_t{kMaxGridBlocks} * kDotOutputs;
// LaunchSoftmaxFew: blocks along y are parts of kFewQueries queries times kv heads.
constexpr int64_t kMaxKvHeads = kMaxGridBlocks / CeilDiv(kFewQueries, SoftmaxFew<128>::kQueries);
// So that rows of a step times these fit 32 bits.
constexpr int64_t kMaxGroupHeads = 1024;

absl::Status Refuse(absl::string_view field, int64_t value, absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat(field, " is ", value, ", a GPU takes ", wanted));
}

absl::Status CheckAtMost(absl::string_view field, int64_t value, int64_t limit) {
  return value <= limit ? absl::OkStatus() : Refuse(field, value, absl::StrCat("at most ", limit));
}

absl::Status CheckHeads(const ModelShape& shape) {
  const int64_t head_dim = shape.head_dim;
  if (shape.has_lightning_layers && !TakesLightningHeadDim(Int(head_dim))) {
    return Refuse("head_dim", head_dim,
                  absl::StrCat("multiples of ", kWarpLanes, " up to ", kMaxLightningHeadDim,
                               " in lightning layers"));
  }
  if (!shape.has_softmax_layers) return absl::OkStatus();
  if (!IsSoftmaxHeadDim(Int(head_dim))) {
    return Refuse("head_dim", head_dim, "32, 64 or 128 in softmax layers");
  }
  M1_RETURN_IF_ERROR(CheckAtMost("num_key_value_heads", shape.num_key_value_heads, kMaxKvHeads));
  return CheckAtMost("num_attention_heads / num_key_value_heads",
                     shape.num_attention_heads / std::max<int64_t>(shape.num_key_value_heads, 1),
                     kMaxGroupHeads);
}

absl::Status CheckGate(const ModelShape& shape) {
  M1_RETURN_IF_ERROR(CheckAtMost("num_local_experts", shape.num_local_experts, kMaxGateExperts));
  return CheckAtMost("num_experts_per_tok", shape.num_experts_per_tok, kWarpLanes);
}

// `k`: elements of a row of matrices of such a format.
absl::Status CheckK(absl::string_view field, int64_t k, MatrixFormat format,
                    const ModelShape& shape) {
  if (format == MatrixFormat::kPlain) {
    if (k % kChunkElements == 0) return absl::OkStatus();
    return Refuse(field, k, absl::StrCat("multiples of ", kChunkElements));
  }
  const bool is_int8 = format == MatrixFormat::kInt8;
  const int64_t group = is_int8 ? 0 : shape.group_size;
  if (TakesQuantK(Int(group), Int(std::min<int64_t>(k, INT32_MAX)))) return absl::OkStatus();
  return Refuse(field, k,
                absl::StrCat("multiples of ", is_int8 ? kQuantRowBytes : group, " up to ",
                             kMaxQuantK, " for ", is_int8 ? "int8" : "int4"));
}

absl::Status CheckMatrices(const ModelShape& shape) {
  const bool has_plain =
      shape.expert_format == MatrixFormat::kPlain || shape.other_format == MatrixFormat::kPlain;
  if (has_plain && shape.matrix_dtype != DType::kBf16) {
    return absl::UnimplementedError(absl::StrCat("torch_dtype of the weights is ",
                                                 DTypeName(shape.matrix_dtype),
                                                 ", a GPU takes bf16, int8 and int4"));
  }
  const int64_t heads_width = shape.num_attention_heads * shape.head_dim;
  M1_RETURN_IF_ERROR(CheckK("hidden_size", shape.hidden_size, shape.expert_format, shape));
  M1_RETURN_IF_ERROR(CheckK("hidden_size", shape.hidden_size, shape.other_format, shape));
  M1_RETURN_IF_ERROR(
      CheckK("num_attention_heads * head_dim", heads_width, shape.other_format, shape));
  M1_RETURN_IF_ERROR(
      CheckK("intermediate_size", shape.intermediate_size, shape.expert_format, shape));
  return CheckK("shared_intermediate_size", shape.shared_intermediate_size, shape.other_format,
                shape);
}

absl::Status CheckFeatures(const ModelShape& shape) {
  const int64_t heads_width = shape.num_attention_heads * shape.head_dim;
  const bool has_float_head = shape.has_tied_lm_head && shape.matrix_dtype == DType::kF32;
  M1_RETURN_IF_ERROR(CheckAtMost("vocab_size", shape.vocab_size,
                                 has_float_head ? kMaxFloatFeatures : kMaxFeatures));
  M1_RETURN_IF_ERROR(CheckAtMost("hidden_size", shape.hidden_size, kMaxFeatures));
  M1_RETURN_IF_ERROR(CheckAtMost("intermediate_size", shape.intermediate_size, kMaxFeatures));
  M1_RETURN_IF_ERROR(
      CheckAtMost("shared_intermediate_size", shape.shared_intermediate_size, kMaxFeatures));
  const int64_t matrices = shape.has_lightning_layers ? 3 : 1;  // q, k and v as one
  return CheckAtMost("num_attention_heads * head_dim", heads_width, kMaxFeatures / matrices);
}

}  // namespace

absl::Status CudaKernelBackend::CheckModel(const ModelShape& shape) const {
  M1_RETURN_IF_ERROR(CheckHeads(shape));
  M1_RETURN_IF_ERROR(CheckGate(shape));
  M1_RETURN_IF_ERROR(CheckMatrices(shape));
  return CheckFeatures(shape);
}

}  // namespace m1::cuda
