#include "attention_worker/decoder_layer.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace m1 {
namespace {

// Of the norm over a lightning layer's output; the configuration does not carry it.
constexpr float kInnerNormEps = 1e-6F;

Tensor DecayTensor(const std::vector<float>& decays) {
  Tensor tensor(DType::kF32, {static_cast<int64_t>(decays.size())});
  std::copy(decays.begin(), decays.end(), tensor.data_as<float>());
  return tensor;
}

// hidden = alpha * (postnorm ? normed : hidden) + beta * branch
absl::Status AddBranch(const LayerContext& context, const ResidualScale& scale, int64_t rows) {
  Workspace& w = *context.workspace;
  const TensorView hidden = w.hidden.view().Rows(0, rows);
  const TensorView residual = context.config->postnorm ? w.normed.view().Rows(0, rows) : hidden;
  return context.backend->ScaledAdd(scale.alpha, residual, scale.beta,
                                    w.branch.view().Rows(0, rows), hidden);
}

absl::Status Norm(const LayerContext& context, ConstTensorView weight, int64_t rows) {
  Workspace& w = *context.workspace;
  const TensorView normed = w.normed.view().Rows(0, rows);
  M1_RETURN_IF_ERROR(context.backend->RmsNorm(w.hidden.view().Rows(0, rows), weight,
                                              context.config->rms_norm_eps, normed));
  return context.backend->Round(normed, w.normed_act.view().Rows(0, rows));
}

}  // namespace

DecoderLayer::DecoderLayer(const ModelConfig& config, int32_t layer, int32_t kind_index,
                           const AttentionLayerWeights& weights)
    : layer_(layer), kind_index_(kind_index), weights_(weights) {
  if (weights_.lightning) decays_ = DecayTensor(LightningDecays(config, layer));
}

absl::Status DecoderLayer::Run(const LayerContext& context, const StepBatch& batch) const {
  const int64_t rows = batch.num_rows();
  const ModelConfig& config = *context.config;
  Workspace& w = *context.workspace;

  M1_RETURN_IF_ERROR(Norm(context, weights_.input_norm, rows));
  M1_RETURN_IF_ERROR(weights_.lightning ? Lightning(context, batch) : Softmax(context, batch));
  if (context.tap != nullptr) context.tap->OnAttention(layer_, w.branch.view().Rows(0, rows));
  M1_RETURN_IF_ERROR(AddBranch(context, config.attention_scale(layer_), rows));

  M1_RETURN_IF_ERROR(Norm(context, weights_.post_attention_norm, rows));
  M1_RETURN_IF_ERROR(Moe(context, batch));
  M1_RETURN_IF_ERROR(AddBranch(context, config.mlp_scale, rows));
  if (context.tap != nullptr) context.tap->OnLayer(layer_, w.hidden.view().Rows(0, rows));
  return absl::OkStatus();
}

absl::Status DecoderLayer::Lightning(const LayerContext& context, const StepBatch& batch) const {
  const int64_t rows = batch.num_rows();
  const ModelConfig& config = *context.config;
  KernelBackend& backend = *context.backend;
  Workspace& w = *context.workspace;
  const ConstTensorView h = w.normed_act.view().Rows(0, rows);
  const TensorView qkv = w.qkv.view().Rows(0, rows);
  const TensorView heads = w.heads.view().Rows(0, rows);
  const TensorView output_gate = w.output_gate.view().Rows(0, rows);
  const TensorView heads_act = w.heads_act.view().Rows(0, rows);

  std::vector<LightningSequence> sequences;
  sequences.reserve(batch.sequences.size());
  for (const BatchSequence& sequence : batch.sequences) {
    sequences.push_back(
        context.linear_state->sequence(sequence.state_slot, kind_index_, sequence.rows));
  }
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  M1_RETURN_IF_ERROR(backend.Linear(h, weights_.lightning->qkv_proj, Epilogue::kSilu,
                                    qkv.Reshape({rows, 3 * width})));
  M1_RETURN_IF_ERROR(backend.LightningAttention(
      qkv, decays_.view(), sequences, heads.Reshape({rows, config.num_heads, config.head_dim})));
  M1_RETURN_IF_ERROR(backend.RmsNorm(heads, weights_.lightning->norm, kInnerNormEps, heads));
  M1_RETURN_IF_ERROR(
      backend.Linear(h, weights_.lightning->output_gate, Epilogue::kNone, output_gate));
  M1_RETURN_IF_ERROR(backend.SigmoidMul(output_gate, heads, heads_act));
  return backend.Linear(heads_act, weights_.lightning->out_proj, Epilogue::kNone,
                        w.branch.view().Rows(0, rows));
}

absl::Status DecoderLayer::Softmax(const LayerContext& context, const StepBatch& batch) const {
  const int64_t rows = batch.num_rows();
  const ModelConfig& config = *context.config;
  KernelBackend& backend = *context.backend;
  Workspace& w = *context.workspace;
  const ConstTensorView h = w.normed_act.view().Rows(0, rows);
  const ConstTensorView cos = w.cos.view().Rows(0, rows);
  const ConstTensorView sin = w.sin.view().Rows(0, rows);
  const TensorView q = w.q.view().Rows(0, rows);
  const TensorView k = w.k.view().Rows(0, rows);
  const TensorView q_act = w.q_act.view().Rows(0, rows);
  const TensorView k_act = w.k_act.view().Rows(0, rows);
  const TensorView v_act = w.v_act.view().Rows(0, rows);
  const TensorView heads_act = w.heads_act.view().Rows(0, rows);

  std::vector<PagedSequence> sequences;
  sequences.reserve(batch.sequences.size());
  for (const BatchSequence& sequence : batch.sequences) {
    sequences.push_back({sequence.rows, sequence.block_table});
  }
  const KvPool pool = context.kv_cache->pool(kind_index_);
  const SoftmaxWeights& weights = *weights_.softmax;
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  M1_RETURN_IF_ERROR(
      backend.Linear(h, weights.q_proj, Epilogue::kNone, q.Reshape({rows, q_width})));
  M1_RETURN_IF_ERROR(
      backend.Linear(h, weights.k_proj, Epilogue::kNone, k.Reshape({rows, kv_width})));
  M1_RETURN_IF_ERROR(
      backend.Linear(h, weights.v_proj, Epilogue::kNone, v_act.Reshape({rows, kv_width})));
  M1_RETURN_IF_ERROR(backend.Rotary(q, cos, sin, q_act));
  M1_RETURN_IF_ERROR(backend.Rotary(k, cos, sin, k_act));
  M1_RETURN_IF_ERROR(backend.AppendKv(k_act, v_act, sequences, pool));
  M1_RETURN_IF_ERROR(backend.SoftmaxAttention(
      q_act, sequences, pool, heads_act.Reshape({rows, config.num_heads, config.head_dim})));
  return backend.Linear(heads_act, weights.o_proj, Epilogue::kNone, w.branch.view().Rows(0, rows));
}

absl::Status DecoderLayer::Moe(const LayerContext& context, const StepBatch& batch) const {
  const int64_t rows = batch.num_rows();
  const ModelConfig& config = *context.config;
  KernelBackend& backend = *context.backend;
  Workspace& w = *context.workspace;
  const TensorView logits = w.gate_logits.view().Rows(0, rows);
  const TensorView ids = w.expert_ids.view().Rows(0, rows);
  const TensorView expert_weights = w.expert_weights.view().Rows(0, rows);
  const TensorView expert_out = w.expert_out.view().Rows(0, rows);

  M1_RETURN_IF_ERROR(
      backend.Linear(w.normed.view().Rows(0, rows), weights_.gate, Epilogue::kNone, logits));
  M1_RETURN_IF_ERROR(backend.TopKGate(logits, ids, expert_weights));
  if (context.tap != nullptr) context.tap->OnGate(layer_, logits, ids, expert_weights);
  M1_RETURN_IF_ERROR(context.exchange->Dispatch(
      {.layer = layer_,
       .experts_per_row = config.num_experts_per_token,
       .rows = w.normed_act.view().Rows(0, rows),
       .expert_ids = {ids.data_as<int32_t>(), static_cast<size_t>(ids.num_elements())},
       .out = expert_out}));
  const absl::Status shared = weights_.shared_mlp ? SharedMlp(context, rows) : absl::OkStatus();
  // After a Dispatch there is always a Combine: `expert_out` is written until then.
  M1_RETURN_IF_ERROR(context.exchange->Combine());
  M1_RETURN_IF_ERROR(shared);
  const TensorView branch = w.branch.view().Rows(0, rows);
  M1_RETURN_IF_ERROR(backend.CombineExperts(expert_out, expert_weights, branch));
  if (!weights_.shared_mlp) return absl::OkStatus();
  return backend.SharedExpertMix(branch, w.shared.view().Rows(0, rows),
                                 w.coefficient.view().Rows(0, rows), branch);
}

absl::Status DecoderLayer::SharedMlp(const LayerContext& context, int64_t rows) const {
  KernelBackend& backend = *context.backend;
  Workspace& w = *context.workspace;
  const SharedMlpWeights& weights = *weights_.shared_mlp;
  const ConstTensorView h = w.normed_act.view().Rows(0, rows);
  const TensorView mid = w.shared_mid.view().Rows(0, rows);
  M1_RETURN_IF_ERROR(backend.Linear(w.normed.view().Rows(0, rows), weights.coefficient,
                                    Epilogue::kNone, w.coefficient.view().Rows(0, rows)));
  M1_RETURN_IF_ERROR(backend.GatedUp(h, weights.gate_proj, weights.up_proj, mid));
  return backend.Linear(mid, weights.down_proj, Epilogue::kNone, w.shared.view().Rows(0, rows));
}

}  // namespace m1
