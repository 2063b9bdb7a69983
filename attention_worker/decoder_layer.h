// One layer of the model: attention, residual, experts, residual. Reads like model.md section 2. It
// is cut where the experts compute, so that another lane may run there.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

#include "attention_worker/forward_tap.h"
#include "attention_worker/kv_cache.h"
#include "attention_worker/linear_state.h"
#include "attention_worker/step_batch.h"
#include "attention_worker/workspace.h"
#include "common/base/trace.h"
#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/model/config.h"
#include "common/model/weights.h"

namespace m1 {

// What all layers of a step share in one lane. Borrowed.
struct LayerContext {
  const ModelConfig* config;
  KernelBackend* backend;
  ExpertExchange* exchange;
  LinearState* linear_state;
  KvCache* kv_cache;
  ForwardTap* tap;   // may be null
  TraceSink* trace;  // may be null
  int32_t lane;
  const LaneRows* rows;
  LayerBuffers buffers;        // of the lane's rows
  TensorView host_expert_ids;  // as buffers.expert_ids, in the host's memory

  int64_t num_rows() const { return rows->num_rows; }
  // On the lane's own track.
  TraceSpan Span(absl::string_view name, int32_t layer) const {
    return {.name = name, .track = lane + 1, .layer = layer, .rows = num_rows()};
  }
};

class DecoderLayer {
 public:
  // `kind_index` counts the layers of the same kind before this one. The weights lie in the memory
  // of `backend`.
  DecoderLayer(const ModelConfig& config, int32_t layer, int32_t kind_index,
               const AttentionLayerWeights& weights, KernelBackend& backend);

  // buffers.hidden [rows, hidden] in, the same out of End. After a Begin without error the experts
  // compute until End; the buffers are the layer's until then.
  absl::Status Begin(const LayerContext& context) const;
  absl::Status End(const LayerContext& context) const;

 private:
  // hidden [rows, hidden] in, the same out.
  absl::Status Attention(const LayerContext& context) const;
  // normed, normed_act [rows, hidden] in; branch [rows, hidden] out.
  absl::Status Lightning(const LayerContext& context) const;
  absl::Status Softmax(const LayerContext& context) const;
  // normed, normed_act [rows, hidden] in; expert_weights out, and expert_out when it is combined.
  absl::Status Dispatch(const LayerContext& context) const;
  absl::Status SharedMlp(const LayerContext& context) const;

  int32_t layer_;
  int32_t kind_index_;
  AttentionLayerWeights weights_;
  Tensor decays_;  // fp32 [num_heads], lightning only
};

}  // namespace m1
