// The whole model but its experts: token ids in, logits out. Owns the sequences' memory and the
// step's buffers; knows no requests. Thread-compatible: one thread calls it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "attention_worker/decoder_layer.h"

namespace m1 {

struct ForwardOptions {
  DType activation_dtype = DType::kBf16;
  int64_t max_rows = 0;  // of a step
  int64_t num_kv_blocks = 0;
  int64_t num_state_slots = 0;
  TraceSink* trace = nullptr;  // borrowed
};

// Logits of batch.logit_rows[first], [first + 1], ...: fp32 [count, vocab], with their
// log-sum-exps. An error ends the step.
using LogitsSink =
    absl::FunctionRef<absl::Status(int64_t first, TensorView logits, std::span<const float> lse)>;

class ForwardPass {
 public:
  // All pointers are borrowed, and the weights, which lie in the memory of `backend`.
  ForwardPass(const ModelConfig& config, const AttentionWeights& weights, KernelBackend* backend,
              ExpertExchange* exchange, const ForwardOptions& options);

  // Of the buffers of a step, in the backend's memory.
  static int64_t StepBytes(const ModelConfig& config, const ForwardOptions& options);

  // Runs the rows and extends their sequences' memory. After an error the memory of every sequence
  // in the batch is undefined. Errors: those of the exchange; Internal when the batch breaks an
  // operation's contract.
  absl::Status Run(const StepBatch& batch, LogitsSink sink);

  // Runs the largest steps once, without experts: later ones take no new memory of the backend.
  // Before the first sequence, whose positions stay below `max_context_tokens`; at least one row,
  // KV block and slot. Sequences with many edits of logits may still take some.
  absl::Status WarmUp(int64_t max_context_tokens);

  // For a slot's next sequence.
  absl::Status ResetSlot(int32_t slot) { return linear_state_.Reset(slot); }
  // Makes a slot, or a KV block in all layers, an exact copy of another.
  absl::Status CopySlot(int32_t from, int32_t to) { return linear_state_.Copy(from, to); }
  absl::Status CopyBlock(int32_t from, int32_t to) { return kv_cache_.CopyBlock(from, to); }
  KernelBackend* backend() const { return backend_; }
  LinearState& linear_state() { return linear_state_; }
  const ModelConfig& config() const { return config_; }
  void set_tap(ForwardTap* tap) { tap_ = tap; }

 private:
  // The cos and sin of the rows' positions.
  absl::Status UploadRotaryTable(std::span<const int64_t> positions);
  absl::Status RunLayers(const StepBatch& batch);
  absl::Status RunLanes(const std::vector<LayerContext>& lanes, std::vector<bool>& in_flight);
  absl::Status RunHead(const StepBatch& batch, LogitsSink sink);
  // Logit rows [first, first + count).
  absl::Status RunHeadRows(const StepBatch& batch, int64_t first, int64_t count);

  const ModelConfig config_;
  const AttentionWeights weights_;
  KernelBackend* const backend_;
  const ForwardOptions options_;
  ExpertExchange* exchange_;
  TraceSink* trace_;
  const int64_t max_logit_rows_;
  const std::vector<float> inverse_frequencies_;
  LinearState linear_state_;
  KvCache kv_cache_;
  Workspace workspace_;
  HostBuffers host_;
  std::vector<DecoderLayer> layers_;
  ForwardTap* tap_ = nullptr;
};

}  // namespace m1
