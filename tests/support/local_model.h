// A whole model in one process without RPC: checkpoint, attention worker's engine and experts.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention_worker/engine.h"
#include "common/model/checkpoint.h"
#include "common/worker/device_weights.h"

namespace m1 {

struct LocalModelOptions {
  DType activation_dtype = DType::kF32;
  std::string target = "reference";  // or one of SupportedCpuTargets()
  int threads = 1;
  // Instead of `target`: one backend for the attention side and all experts.
  std::function<std::unique_ptr<KernelBackend>()> make_backend = nullptr;
  // Experts of each in-process expert worker. Empty: DirectExchange instead.
  std::vector<std::vector<int32_t>> shards = {};
  // Puts something between the engine and its exchange.
  std::function<std::unique_ptr<ExpertExchange>(std::unique_ptr<ExpertExchange>)> wrap_exchange =
      nullptr;
  // Changes weights before they are used; what they point to must outlive the model.
  std::function<void(AttentionWeights&)> edit_weights = nullptr;
  bool warm_up = false;  // as a worker with a GPU does before it serves
  absl::Duration expert_loss_timeout = absl::Seconds(60);
  Heartbeat* heartbeat = nullptr;  // the engine's
  LanePolicy::Mode lanes = LanePolicy::Mode::kOne;
  StepLimits limits{.max_sequences = 64,
                    .kv_blocks = 2048,
                    .max_context_tokens = 8192,
                    .max_step_tokens = 256,
                    .max_replay_tokens = 100000};
};

// Everything that a sequence brought.
struct SequenceResult {
  std::vector<TokenScore> prompt;  // from index 0
  std::vector<TokenScore> tokens;
  int num_preemptions = 0;
  std::optional<FinishedSequence> finished;
};

class LocalModel {
 public:
  // Aborts when the checkpoint does not load.
  LocalModel(const std::string& directory, const LocalModelOptions& options);
  ~LocalModel();

  const ModelConfig& config() const { return checkpoint_->config(); }
  // Before the engine starts only: then it owns the forward pass.
  ForwardPass& forward() { return *forward_; }
  // Starts it at the first call.
  Engine& engine();

  // Runs the sequences at once, or one after the other; replays what was preempted. Their ids are
  // their indices.
  std::vector<SequenceResult> Run(const std::vector<SequenceStart>& starts, bool at_once = true);
  EngineStats stats() const;

 private:
  class Collector;

  void WarmUp();

  const LocalModelOptions options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<KernelBackend> backend_;
  std::unique_ptr<DeviceWeights> device_weights_;
  struct ExpertWorker;
  std::vector<std::unique_ptr<ExpertWorker>> expert_workers_;
  std::unique_ptr<ExpertExchange> exchange_;
  std::unique_ptr<ForwardPass> forward_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace m1
