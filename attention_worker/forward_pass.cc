#include "attention_worker/forward_pass.h"

#include <algorithm>

#include "common/base/status_macros.h"
#include "common/kernels/rotary_table.h"

namespace m1 {
namespace {

// Rows of logits held at once: 64 rows of M1's vocabulary are 51 MB.
constexpr int64_t kMaxLogitRows = 64;

std::vector<DecoderLayer> MakeLayers(const ModelConfig& config, const AttentionWeights& weights,
                                     KernelBackend& backend) {
  std::vector<DecoderLayer> layers;
  int32_t num_lightning = 0;
  int32_t num_softmax = 0;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const bool lightning = config.layer_kinds[static_cast<size_t>(layer)] == LayerKind::kLightning;
    const int32_t kind_index = lightning ? num_lightning++ : num_softmax++;
    layers.emplace_back(config, layer, kind_index, weights.layers[static_cast<size_t>(layer)],
                        backend);
  }
  return layers;
}

}  // namespace

ForwardPass::ForwardPass(const ModelConfig& config, const AttentionWeights& weights,
                         KernelBackend* backend, ExpertExchange* exchange,
                         const ForwardOptions& options)
    : config_(config),
      weights_(weights),
      backend_(backend),
      options_(options),
      exchange_(exchange),
      trace_(options.trace),
      max_logit_rows_(std::min(kMaxLogitRows, options.max_rows)),
      inverse_frequencies_(RotaryInverseFrequencies(config)),
      linear_state_(config, options.activation_dtype, options.num_state_slots, backend),
      kv_cache_(config, options.activation_dtype, options.num_kv_blocks, backend),
      workspace_(
          config, options.activation_dtype, options.max_rows, max_logit_rows_,
          [backend](DType dtype, const Shape& shape) { return backend->NewTensor(dtype, shape); }),
      host_(config, options.max_rows, max_logit_rows_,
            [backend](DType dtype, const Shape& shape) {
              return backend->NewHostTensor(dtype, shape);
            }),
      layers_(MakeLayers(config_, weights, *backend)) {}

int64_t ForwardPass::StepBytes(const ModelConfig& config, const ForwardOptions& options) {
  int64_t bytes = 0;
  const auto count = [&bytes](DType dtype, const Shape& shape) {
    bytes += shape.num_elements() * DTypeBytes(dtype);
    return Tensor();
  };
  const Workspace counted(config, options.activation_dtype, options.max_rows,
                          std::min(kMaxLogitRows, options.max_rows), count);
  return bytes;
}

absl::Status ForwardPass::Run(const StepBatch& batch, LogitsSink sink) {
  const int64_t rows = batch.num_rows();
  if (tap_ != nullptr) tap_->OnStep(batch);
  M1_RETURN_IF_ERROR(UploadRotaryTable(batch.positions));
  M1_RETURN_IF_ERROR(
      backend_->Embed(batch.token_ids, weights_.embedding, workspace_.hidden.view().Rows(0, rows)));
  M1_RETURN_IF_ERROR(RunLayers(batch));
  const ScopedSpan span(
      trace_, {.name = "head", .track = 1, .rows = static_cast<int64_t>(batch.logit_rows.size())});
  return RunHead(batch, sink);
}

absl::Status ForwardPass::UploadRotaryTable(std::span<const int64_t> positions) {
  const auto rows = static_cast<int64_t>(positions.size());
  const TensorView cos = host_.cos.view().Rows(0, rows);
  const TensorView sin = host_.sin.view().Rows(0, rows);
  FillRotaryTable(positions, inverse_frequencies_, cos, sin);
  M1_RETURN_IF_ERROR(backend_->Upload(cos, workspace_.cos.view().Rows(0, rows)));
  return backend_->Upload(sin, workspace_.sin.view().Rows(0, rows));
}

absl::Status ForwardPass::RunLayers(const StepBatch& batch) {
  const std::vector<LaneRows> parts =
      SplitRows(batch, tap_ == nullptr ? std::min(batch.num_lanes, kExchangeLanes) : 1);
  std::vector<LayerContext> lanes;
  for (const LaneRows& part : parts) {
    lanes.push_back(
        {.config = &config_,
         .backend = backend_,
         .exchange = exchange_,
         .linear_state = &linear_state_,
         .kv_cache = &kv_cache_,
         .tap = tap_,
         .trace = trace_,
         .lane = static_cast<int32_t>(lanes.size()),
         .rows = &part,
         .buffers = workspace_.Rows(part.row_begin, part.num_rows),
         .host_expert_ids = host_.expert_ids.view().Rows(part.row_begin, part.num_rows)});
  }
  std::vector<bool> in_flight(lanes.size(), false);
  const absl::Status status = RunLanes(lanes, in_flight);
  for (const LayerContext& lane : lanes) {
    // The experts write into its buffers until then.
    if (in_flight[static_cast<size_t>(lane.lane)]) exchange_->Combine(lane.lane).IgnoreError();
  }
  return status;
}

// By turns: while the experts have the rows of one lane, the other one's attention is computed.
absl::Status ForwardPass::RunLanes(const std::vector<LayerContext>& lanes,
                                   std::vector<bool>& in_flight) {
  for (size_t layer = 0; layer <= layers_.size(); ++layer) {
    for (const LayerContext& lane : lanes) {
      const auto index = static_cast<size_t>(lane.lane);
      if (layer > 0) {
        in_flight[index] = false;
        M1_RETURN_IF_ERROR(layers_[layer - 1].End(lane));
      }
      if (layer < layers_.size()) {
        M1_RETURN_IF_ERROR(layers_[layer].Begin(lane));
        in_flight[index] = true;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ForwardPass::RunHead(const StepBatch& batch, LogitsSink sink) {
  const auto num_logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  for (int64_t first = 0; first < num_logit_rows; first += max_logit_rows_) {
    const int64_t count = std::min(max_logit_rows_, num_logit_rows - first);
    M1_RETURN_IF_ERROR(RunHeadRows(batch, first, count));
    M1_RETURN_IF_ERROR(
        sink(first, workspace_.logits.view().Rows(0, count),
             std::span<const float>(host_.log_sum_exp).first(static_cast<size_t>(count))));
  }
  return absl::OkStatus();
}

absl::Status ForwardPass::RunHeadRows(const StepBatch& batch, int64_t first, int64_t count) {
  const TensorView last_hidden = workspace_.last_hidden.view().Rows(0, count);
  const TensorView logits = workspace_.logits.view().Rows(0, count);
  const auto at = static_cast<size_t>(first);
  const auto size = static_cast<size_t>(count);
  M1_RETURN_IF_ERROR(backend_->CopyRows(workspace_.hidden.view(),
                                        std::span(batch.logit_rows).subspan(at, size), last_hidden,
                                        std::span<const int32_t>(host_.row_numbers).first(size)));
  M1_RETURN_IF_ERROR(
      backend_->RmsNorm(last_hidden, weights_.final_norm, config_.rms_norm_eps, last_hidden));
  M1_RETURN_IF_ERROR(backend_->Linear(last_hidden, weights_.lm_head, Epilogue::kNone, logits));
  return backend_->LogSumExp(logits, std::span(batch.logit_temperatures).subspan(at, size),
                             std::span(host_.log_sum_exp).first(size));
}

}  // namespace m1
