#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

#include "common/model/config.h"

namespace m1 {

std::string DescribeModelConfig(const ModelConfig& config) {
  std::string kinds;
  for (const LayerKind kind : config.layer_kinds) kinds += kind == LayerKind::kSoftmax ? '1' : '0';
  const auto scale = [](const ResidualScale& s) {
    return absl::StrFormat("%.9g,%.9g", s.alpha, s.beta);
  };
  const std::string quantized = config.quantization.format == MatrixFormat::kPlain
                                    ? ""
                                    : absl::StrCat(" quantized=", WeightFormatName(config));
  return absl::StrFormat(
      "format=%s layers=%d hidden=%d heads=%d kv_heads=%d head_dim=%d rotary_dim=%d "
      "rope_theta=%.17g experts=%d experts_per_token=%d expert_intermediate=%d "
      "shared_intermediate=%d vocab=%d max_context_tokens=%d rms_norm_eps=%.9g postnorm=%d "
      "tied_embeddings=%d layer_kinds=%s lightning_scale=%s softmax_scale=%s mlp_scale=%s "
      "eos=%s weights=%s%s",
      config.format == CheckpointFormat::kOriginal ? "original" : "transformers", config.num_layers,
      config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim, config.rotary_dim,
      config.rope_theta, config.num_experts, config.num_experts_per_token,
      config.expert_intermediate_size, config.shared_intermediate_size, config.vocab_size,
      config.max_context_tokens, config.rms_norm_eps, config.postnorm ? 1 : 0,
      config.tie_word_embeddings ? 1 : 0, kinds, scale(config.lightning_scale),
      scale(config.softmax_scale), scale(config.mlp_scale),
      absl::StrJoin(config.eos_token_ids, ","), DTypeName(config.weights_dtype), quantized);
}

std::string WeightFormatName(const ModelConfig& config) {
  const WeightQuantization& quantization = config.quantization;
  const char* scope = quantization.everything ? "all" : "experts";
  switch (quantization.format) {
    case MatrixFormat::kPlain:
      return std::string(DTypeName(config.weights_dtype));
    case MatrixFormat::kInt8:
      return absl::StrCat("int8-", scope);
    case MatrixFormat::kInt4:
      return absl::StrCat("int4-g", quantization.group_size, "-", scope);
  }
  return "unknown";
}

absl::StatusOr<DType> ActivationDType(absl::string_view choice, const ModelConfig& config) {
  if (choice == "bf16") return DType::kBf16;
  if (choice == "fp32") return DType::kF32;
  if (choice == "auto") {
    return config.weights_dtype == DType::kBf16 ? DType::kBf16 : DType::kF32;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--activation_dtype is \"", choice, "\", wanted auto, bf16 or fp32"));
}

}  // namespace m1
