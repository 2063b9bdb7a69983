// One layer of the model: attention, residual, experts, residual. Reads like model.md section 2.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

#include "attention_worker/forward_tap.h"
#include "attention_worker/kv_cache.h"
#include "attention_worker/linear_state.h"
#include "attention_worker/step_batch.h"
#include "attention_worker/workspace.h"
#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/model/config.h"
#include "common/model/weights.h"

namespace m1 {

// What all layers of a step share. Borrowed.
struct LayerContext {
  const ModelConfig* config;
  KernelBackend* backend;
  ExpertExchange* exchange;
  LinearState* linear_state;
  KvCache* kv_cache;
  Workspace* workspace;
  ForwardTap* tap;  // may be null
};

class DecoderLayer {
 public:
  // `kind_index` counts the layers of the same kind before this one.
  DecoderLayer(const ModelConfig& config, int32_t layer, int32_t kind_index,
               const AttentionLayerWeights& weights);

  // workspace.hidden [rows, hidden] in, the same out.
  absl::Status Run(const LayerContext& context, const StepBatch& batch) const;

 private:
  // normed, normed_act [rows, hidden] in; branch [rows, hidden] out.
  absl::Status Lightning(const LayerContext& context, const StepBatch& batch) const;
  absl::Status Softmax(const LayerContext& context, const StepBatch& batch) const;
  absl::Status Moe(const LayerContext& context, const StepBatch& batch) const;
  absl::Status SharedMlp(const LayerContext& context, int64_t rows) const;

  int32_t layer_;
  int32_t kind_index_;
  AttentionLayerWeights weights_;
  Tensor decays_;  // fp32 [num_heads], lightning only
};

}  // namespace m1
