// What config.json says about a checkpoint of this model family, checked and in one spelling.
// Source: shared facts of configuration_minimax_m1.py and transformers' MiniMaxConfig.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/tensor/dtype.h"
#include "common/tensor/matrix_view.h"

namespace m1 {

// The original MiniMax files, or those of Hugging Face transformers (model_type "minimax"). They
// differ in tensor names, decay slopes and the layer factor.
enum class CheckpointFormat { kOriginal, kTransformers };

enum class LayerKind : uint8_t { kLightning = 0, kSoftmax = 1 };

// x = alpha * residual + beta * branch
struct ResidualScale {
  float alpha = 1.0F;
  float beta = 1.0F;
};

// Which matrices are integers, and how: made by `m1 quantize`.
struct WeightQuantization {
  MatrixFormat format = MatrixFormat::kPlain;  // of what is quantised; kPlain: nothing is
  bool everything = false;  // also projections, shared expert and LM head, not only experts
  int32_t group_size = 0;   // int4: elements of a row that share a scale, 32 or 64
};

struct ModelConfig {
  CheckpointFormat format = CheckpointFormat::kOriginal;
  std::string model_type;
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;  // softmax layers
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;  // even, <= head_dim
  double rope_theta = 10000.0;
  int32_t num_experts = 0;
  int32_t num_experts_per_token = 0;
  int32_t expert_intermediate_size = 0;
  // 0: no shared expert. Checkpoint::Open puts the width of the tensors here: some code of the
  // family sizes the shared expert by intermediate_size.
  int32_t shared_intermediate_size = 0;
  int32_t vocab_size = 0;
  int64_t max_context_tokens = 0;
  float rms_norm_eps = 1e-5F;
  bool postnorm = false;
  bool tie_word_embeddings = false;
  std::vector<LayerKind> layer_kinds;  // [num_layers]
  ResidualScale lightning_scale, softmax_scale, mlp_scale;
  std::vector<int32_t> eos_token_ids;  // from config.json and generation_config.json; may be empty
  // What torch_dtype / dtype say (kF32 when both are absent, as in M1's own config).
  // Checkpoint::Open puts the type of the matrices that it found here: the meaning of
  // `--activation_dtype auto`.
  DType weights_dtype = DType::kF32;
  WeightQuantization quantization;

  int32_t num_lightning_layers() const;
  int32_t num_softmax_layers() const;
  const ResidualScale& attention_scale(int32_t layer) const {
    return layer_kinds[static_cast<size_t>(layer)] == LayerKind::kLightning ? lightning_scale
                                                                            : softmax_scale;
  }
};

// Errors: InvalidArgument naming the key, the value and the limit. Never crashes on hostile text.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json);
// Reads DIR/config.json and, where present, DIR/generation_config.json (for eos ids).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

// All fields in one line of key=value text: for the log, and what the fingerprint hashes.
std::string DescribeModelConfig(const ModelConfig& config);

// The weight format as identities, logs and clients see it: "bf16", "fp32", "int8-experts",
// "int4-g32-all".
std::string WeightFormatName(const ModelConfig& config);

// Element type of activations that `choice` stands for: "bf16", "fp32", or "auto", that of the
// weights. Both kinds of worker go by this, or they would refuse each other. Errors:
// InvalidArgument naming --activation_dtype.
absl::StatusOr<DType> ActivationDType(absl::string_view choice, const ModelConfig& config);

// Decay rate s >= 0 of every head of a lightning layer: S_t = exp(-s) S_{t-1} + k v^T.
// Computed in double by libm, rounded once. Shape [num_heads]. A test pins the hash of M1's table.
std::vector<float> LightningDecays(const ModelConfig& config, int32_t layer);

// Inverse frequencies of the rotary embedding, [rotary_dim / 2], as torch computes them in fp32.
std::vector<float> RotaryInverseFrequencies(const ModelConfig& config);

}  // namespace m1
