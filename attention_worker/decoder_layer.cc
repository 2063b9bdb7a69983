#include "attention_worker/decoder_layer.h"

#include <string>

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

// Of the norm over a lightning layer's output; the configuration does not carry it.
constexpr float kInnerNormEps = 1e-6F;

Tensor DecayTensor(const std::vector<float>& decays, KernelBackend& backend) {
  const Shape shape{static_cast<int64_t>(decays.size())};
  Tensor tensor = backend.NewTensor(DType::kF32, shape);
  const absl::Status status =
      backend.Upload(ConstTensorView(decays.data(), DType::kF32, shape), tensor.view());
  M1_CHECK_MSG(status.ok(), std::string(status.message()));
  return tensor;
}

// hidden = alpha * (postnorm ? normed : hidden) + beta * branch
absl::Status AddBranch(const LayerContext& context, const ResidualScale& scale) {
  const LayerBuffers& w = context.buffers;
  const TensorView residual = context.config->postnorm ? w.normed : w.hidden;
  return context.backend->ScaledAdd(scale.alpha, residual, scale.beta, w.branch, w.hidden);
}

absl::Status Norm(const LayerContext& context, ConstTensorView weight) {
  const LayerBuffers& w = context.buffers;
  M1_RETURN_IF_ERROR(
      context.backend->RmsNorm(w.hidden, weight, context.config->rms_norm_eps, w.normed));
  return context.backend->Round(w.normed, w.normed_act);
}

}  // namespace

DecoderLayer::DecoderLayer(const ModelConfig& config, int32_t layer, int32_t kind_index,
                           const AttentionLayerWeights& weights, KernelBackend& backend)
    : layer_(layer), kind_index_(kind_index), weights_(weights) {
  if (weights_.lightning) decays_ = DecayTensor(LightningDecays(config, layer), backend);
}

absl::Status DecoderLayer::Begin(const LayerContext& context) const {
  {
    const ScopedSpan span(context.trace, context.Span("attention", layer_));
    M1_RETURN_IF_ERROR(Attention(context));
    M1_RETURN_IF_ERROR(Norm(context, weights_.post_attention_norm));
    M1_RETURN_IF_ERROR(Dispatch(context));
  }
  if (!weights_.shared_mlp) return absl::OkStatus();
  const ScopedSpan span(context.trace, context.Span("shared expert", layer_));
  const absl::Status shared = SharedMlp(context);
  // After a Dispatch there is always a Combine: `expert_out` is written until then.
  if (!shared.ok()) context.exchange->Combine(context.lane).IgnoreError();
  return shared;
}

absl::Status DecoderLayer::End(const LayerContext& context) const {
  const LayerBuffers& w = context.buffers;
  {
    const ScopedSpan span(context.trace, context.Span("wait", layer_));
    M1_RETURN_IF_ERROR(context.exchange->Combine(context.lane));
  }
  const ScopedSpan span(context.trace, context.Span("combine", layer_));
  M1_RETURN_IF_ERROR(context.backend->CombineExperts(w.expert_out, w.expert_weights, w.branch));
  if (weights_.shared_mlp) {
    M1_RETURN_IF_ERROR(
        context.backend->SharedExpertMix(w.branch, w.shared, w.coefficient, w.branch));
  }
  M1_RETURN_IF_ERROR(AddBranch(context, context.config->mlp_scale));
  if (context.tap != nullptr) context.tap->OnLayer(layer_, w.hidden);
  return absl::OkStatus();
}

absl::Status DecoderLayer::Attention(const LayerContext& context) const {
  M1_RETURN_IF_ERROR(Norm(context, weights_.input_norm));
  M1_RETURN_IF_ERROR(weights_.lightning ? Lightning(context) : Softmax(context));
  if (context.tap != nullptr) context.tap->OnAttention(layer_, context.buffers.branch);
  return AddBranch(context, context.config->attention_scale(layer_));
}

absl::Status DecoderLayer::Lightning(const LayerContext& context) const {
  const int64_t rows = context.num_rows();
  const ModelConfig& config = *context.config;
  KernelBackend& backend = *context.backend;
  const LayerBuffers& w = context.buffers;
  const ConstTensorView h = w.normed_act;

  std::vector<LightningSequence> sequences;
  sequences.reserve(context.rows->sequences.size());
  for (const BatchSequence& sequence : context.rows->sequences) {
    sequences.push_back(
        context.linear_state->sequence(sequence.state_slot, kind_index_, sequence.rows));
  }
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  const LightningWeights& weights = *weights_.lightning;
  const LinearProduct projections[] = {
      {weights.qkv_proj, Epilogue::kSilu, w.qkv.Reshape({rows, 3 * width})},
      {weights.output_gate, Epilogue::kNone, w.output_gate}};
  M1_RETURN_IF_ERROR(backend.Linears(h, projections));
  M1_RETURN_IF_ERROR(
      backend.LightningAttention(w.qkv, decays_.view(), sequences,
                                 w.heads.Reshape({rows, config.num_heads, config.head_dim})));
  M1_RETURN_IF_ERROR(backend.RmsNorm(w.heads, weights.norm, kInnerNormEps, w.heads));
  M1_RETURN_IF_ERROR(backend.SigmoidMul(w.output_gate, w.heads, w.heads_act));
  return backend.Linear(w.heads_act, weights.out_proj, Epilogue::kNone, w.branch);
}

absl::Status DecoderLayer::Softmax(const LayerContext& context) const {
  const int64_t rows = context.num_rows();
  const ModelConfig& config = *context.config;
  KernelBackend& backend = *context.backend;
  const LayerBuffers& w = context.buffers;
  const ConstTensorView h = w.normed_act;

  std::vector<PagedSequence> sequences;
  sequences.reserve(context.rows->sequences.size());
  for (const BatchSequence& sequence : context.rows->sequences) {
    sequences.push_back({sequence.rows, sequence.block_table});
  }
  const KvPool pool = context.kv_cache->pool(kind_index_);
  const SoftmaxWeights& weights = *weights_.softmax;
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  const LinearProduct projections[] = {
      {weights.q_proj, Epilogue::kNone, w.q.Reshape({rows, q_width})},
      {weights.k_proj, Epilogue::kNone, w.k.Reshape({rows, kv_width})},
      {weights.v_proj, Epilogue::kNone, w.v_act.Reshape({rows, kv_width})}};
  M1_RETURN_IF_ERROR(backend.Linears(h, projections));
  M1_RETURN_IF_ERROR(backend.Rotary(w.q, w.cos, w.sin, w.q_act));
  M1_RETURN_IF_ERROR(backend.Rotary(w.k, w.cos, w.sin, w.k_act));
  M1_RETURN_IF_ERROR(backend.AppendKv(w.k_act, w.v_act, sequences, pool));
  M1_RETURN_IF_ERROR(backend.SoftmaxAttention(
      w.q_act, sequences, pool, w.heads_act.Reshape({rows, config.num_heads, config.head_dim})));
  return backend.Linear(w.heads_act, weights.o_proj, Epilogue::kNone, w.branch);
}

absl::Status DecoderLayer::Dispatch(const LayerContext& context) const {
  const LayerBuffers& w = context.buffers;
  KernelBackend& backend = *context.backend;
  {
    const ScopedSpan span(context.trace, context.Span("gate", layer_));
    M1_RETURN_IF_ERROR(backend.Linear(w.normed, weights_.gate, Epilogue::kNone, w.gate_logits));
    M1_RETURN_IF_ERROR(backend.TopKGate(w.gate_logits, w.expert_ids, w.expert_weights));
  }
  if (context.tap != nullptr) {
    context.tap->OnGate(layer_, w.gate_logits, w.expert_ids, w.expert_weights);
  }
  M1_RETURN_IF_ERROR(backend.Download(w.expert_ids, context.host_expert_ids));
  return context.exchange->Dispatch(
      {.lane = context.lane,
       .layer = layer_,
       .experts_per_row = context.config->num_experts_per_token,
       .rows = w.normed_act,
       .expert_ids = {context.host_expert_ids.data_as<int32_t>(),
                      static_cast<size_t>(context.host_expert_ids.num_elements())},
       .out = w.expert_out});
}

absl::Status DecoderLayer::SharedMlp(const LayerContext& context) const {
  KernelBackend& backend = *context.backend;
  const LayerBuffers& w = context.buffers;
  const SharedMlpWeights& weights = *weights_.shared_mlp;
  M1_RETURN_IF_ERROR(backend.Linear(w.normed, weights.coefficient, Epilogue::kNone, w.coefficient));
  M1_RETURN_IF_ERROR(
      backend.GatedUp(w.normed_act, weights.gate_proj, weights.up_proj, w.shared_mid));
  return backend.Linear(w.shared_mid, weights.down_proj, Epilogue::kNone, w.shared);
}

}  // namespace m1
