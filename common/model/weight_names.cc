#include "common/model/weight_names.h"

#include <initializer_list>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr const char* kLayers = "model.layers.";
// The kernels' own limit, see kMaxQuantizedK: sums of products of 8 bits fit 32.
constexpr int64_t kMaxQuantizedRow = int64_t{1} << 17;

using Visitor = absl::FunctionRef<absl::Status(const TensorSpec&)>;

struct NamedSlot {
  const char* suffix;
  TensorSlot slot;
  Shape shape;
};

absl::Status VisitAll(std::initializer_list<NamedSlot> slots, int32_t layer, Visitor visit) {
  const std::string prefix = layer < 0 ? "" : absl::StrCat(kLayers, layer, ".");
  for (const NamedSlot& named : slots) {
    M1_RETURN_IF_ERROR(visit(TensorSpec{.name = absl::StrCat(prefix, named.suffix),
                                        .shape = named.shape,
                                        .slot = named.slot,
                                        .layer = layer}));
  }
  return absl::OkStatus();
}

absl::Status VisitAttention(const ModelConfig& c, int32_t layer, Visitor visit) {
  const int64_t width = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv_width = int64_t{c.num_kv_heads} * c.head_dim;
  if (c.layer_kinds[static_cast<size_t>(layer)] == LayerKind::kLightning) {
    return VisitAll(
        {{"self_attn.qkv_proj.weight", TensorSlot::kQkvProj, {3 * width, c.hidden_size}},
         {"self_attn.output_gate.weight", TensorSlot::kOutputGate, {width, c.hidden_size}},
         {"self_attn.norm.weight", TensorSlot::kInnerNorm, {width}},
         {"self_attn.out_proj.weight", TensorSlot::kOutProj, {c.hidden_size, width}}},
        layer, visit);
  }
  return VisitAll({{"self_attn.q_proj.weight", TensorSlot::kQProj, {width, c.hidden_size}},
                   {"self_attn.k_proj.weight", TensorSlot::kKProj, {kv_width, c.hidden_size}},
                   {"self_attn.v_proj.weight", TensorSlot::kVProj, {kv_width, c.hidden_size}},
                   {"self_attn.o_proj.weight", TensorSlot::kOProj, {c.hidden_size, width}}},
                  layer, visit);
}

absl::Status VisitExperts(const ModelConfig& c, ExpertLayout layout, int32_t layer, Visitor visit) {
  const int64_t inter = c.expert_intermediate_size;
  if (layout == ExpertLayout::kFused) {
    return VisitAll(
        {{"mlp.experts.gate_up_proj",
          TensorSlot::kFusedGateUp,
          {c.num_experts, 2 * inter, c.hidden_size}},
         {"mlp.experts.down_proj", TensorSlot::kFusedDown, {c.num_experts, c.hidden_size, inter}}},
        layer, visit);
  }
  const NamedSlot matrices[] = {{"w1", TensorSlot::kExpertW1, {inter, c.hidden_size}},
                                {"w2", TensorSlot::kExpertW2, {c.hidden_size, inter}},
                                {"w3", TensorSlot::kExpertW3, {inter, c.hidden_size}}};
  for (int32_t expert = 0; expert < c.num_experts; ++expert) {
    for (const NamedSlot& matrix : matrices) {
      M1_RETURN_IF_ERROR(
          visit(TensorSpec{.name = absl::StrCat(kLayers, layer, ".block_sparse_moe.experts.",
                                                expert, ".", matrix.suffix, ".weight"),
                           .shape = matrix.shape,
                           .slot = matrix.slot,
                           .layer = layer,
                           .expert = expert}));
    }
  }
  return absl::OkStatus();
}

absl::Status VisitLayer(const ModelConfig& c, ExpertLayout layout, int32_t layer, Visitor visit) {
  M1_RETURN_IF_ERROR(VisitAll(
      {{"input_layernorm.weight", TensorSlot::kInputNorm, {c.hidden_size}},
       {"post_attention_layernorm.weight", TensorSlot::kPostAttentionNorm, {c.hidden_size}},
       {layout == ExpertLayout::kFused ? "mlp.gate.weight" : "block_sparse_moe.gate.weight",
        TensorSlot::kGate,
        {c.num_experts, c.hidden_size}}},
      layer, visit));
  M1_RETURN_IF_ERROR(VisitAttention(c, layer, visit));
  if (const int64_t shared = c.shared_intermediate_size; shared > 0) {
    M1_RETURN_IF_ERROR(VisitAll(
        {{"shared_mlp.gate_proj.weight", TensorSlot::kSharedGateProj, {shared, c.hidden_size}},
         {"shared_mlp.up_proj.weight", TensorSlot::kSharedUpProj, {shared, c.hidden_size}},
         {"shared_mlp.down_proj.weight", TensorSlot::kSharedDownProj, {c.hidden_size, shared}},
         {"coefficient.weight", TensorSlot::kSharedCoefficient, {1, c.hidden_size}}},
        layer, visit));
  }
  return VisitExperts(c, layout, layer, visit);
}

}  // namespace

bool IsExpertSlot(TensorSlot slot) { return slot >= TensorSlot::kExpertW1; }

bool MayStayFp32(TensorSlot slot) {
  switch (slot) {
    case TensorSlot::kFinalNorm:
    case TensorSlot::kInputNorm:
    case TensorSlot::kPostAttentionNorm:
    case TensorSlot::kInnerNorm:
    case TensorSlot::kGate:
    case TensorSlot::kSharedCoefficient:
      return true;
    default:
      return false;
  }
}

bool IsQuantizedSlot(TensorSlot slot, const WeightQuantization& quantization) {
  if (quantization.format == MatrixFormat::kPlain) return false;
  if (IsExpertSlot(slot)) return true;
  return quantization.everything && slot != TensorSlot::kEmbedding && !MayStayFp32(slot);
}

std::string ScaleName(const std::string& name) { return absl::StrCat(name, "_scale"); }

absl::StatusOr<QuantizedTensors> QuantizedAs(const WeightQuantization& quantization,
                                             const Shape& shape) {
  const int64_t k = shape[shape.rank() - 1];
  if (k > kMaxQuantizedRow) {
    return absl::DataLossError(
        absl::StrCat("has rows of ", k, " elements, limit ", kMaxQuantizedRow, " for integers"));
  }
  const bool int4 = quantization.format == MatrixFormat::kInt4;
  if (int4 && k % quantization.group_size != 0) {
    return absl::DataLossError(absl::StrCat("has rows of ", k, " elements, wanted a multiple of ",
                                            "group_size ", quantization.group_size));
  }
  QuantizedTensors tensors;
  for (int axis = 0; axis + 1 < shape.rank(); ++axis) {
    tensors.integers.Append(shape[axis]);
    tensors.scales.Append(shape[axis]);
  }
  tensors.integers.Append(int4 ? k / 2 : k);
  if (int4) {
    tensors.integers_dtype = DType::kU8;
    tensors.scales_dtype = DType::kBf16;
    tensors.scales.Append(k / quantization.group_size);
  }
  return tensors;
}

absl::Status ForEachTensor(const ModelConfig& config, ExpertLayout layout, Visitor visit) {
  M1_RETURN_IF_ERROR(VisitAll({{"model.embed_tokens.weight",
                                TensorSlot::kEmbedding,
                                {config.vocab_size, config.hidden_size}},
                               {"model.norm.weight", TensorSlot::kFinalNorm, {config.hidden_size}}},
                              /*layer=*/-1, visit));
  if (!config.tie_word_embeddings) {
    M1_RETURN_IF_ERROR(
        VisitAll({{"lm_head.weight", TensorSlot::kLmHead, {config.vocab_size, config.hidden_size}}},
                 /*layer=*/-1, visit));
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    M1_RETURN_IF_ERROR(VisitLayer(config, layout, layer, visit));
  }
  return absl::OkStatus();
}

std::string SharedGateProjName(int32_t layer) {
  return absl::StrCat(kLayers, layer, ".shared_mlp.gate_proj.weight");
}

std::string FusedGateUpName(int32_t layer) {
  return absl::StrCat(kLayers, layer, ".mlp.experts.gate_up_proj");
}

bool IsIgnoredTensor(const ModelConfig& config, absl::string_view name) {
  if (config.format != CheckpointFormat::kTransformers) return false;
  if (!absl::ConsumePrefix(&name, kLayers)) return false;
  for (const char* table : {"slope_rate", "query_decay", "key_decay", "diagonal_decay"}) {
    absl::string_view digits = name;
    if (!absl::ConsumeSuffix(&digits, absl::StrCat(".self_attn.", table))) continue;
    int32_t layer = -1;
    return absl::SimpleAtoi(digits, &layer) && absl::StrCat(layer) == digits && layer >= 0 &&
           layer < config.num_layers &&
           config.layer_kinds[static_cast<size_t>(layer)] == LayerKind::kLightning;
  }
  return false;
}

}  // namespace m1
