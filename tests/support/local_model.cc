#include "tests/support/local_model.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/exchange/inproc_exchange.h"
#include "common/kernels/cpu_backend.h"
#include "expert_worker/expert_ffn.h"
#include "tests/support/direct_exchange.h"

namespace m1 {
namespace {

// The resume point of a preempted sequence.
SequenceStart Resumed(SequenceStart start, const SequenceResult& result) {
  for (const TokenScore& token : result.tokens) start.token_ids.push_back(token.id);
  start.next_prompt_logprob_index = static_cast<int32_t>(result.prompt.size());
  return start;
}

std::unique_ptr<KernelBackend> MakeBackend(const LocalModelOptions& options) {
  if (options.make_backend) return options.make_backend();
  if (options.target == "reference") return CreateReferenceBackend();
  auto backend = CreateCpuBackend({.num_threads = options.threads, .target = options.target});
  M1_CHECK_MSG(backend.ok(), std::string(backend.status().message()));
  return *std::move(backend);
}

ExpertStore MakeStore(const Checkpoint& checkpoint, const std::vector<int32_t>& experts,
                      DeviceWeights* device) {
  auto store = ExpertStore::Open(checkpoint, experts, device);
  M1_CHECK_MSG(store.ok(), std::string(store.status().message()));
  return *std::move(store);
}

}  // namespace

struct LocalModel::ExpertWorker {
  ExpertWorker(const Checkpoint& checkpoint, const std::vector<int32_t>& experts,
               KernelBackend* backend, const LocalModelOptions& options)
      : own_backend(options.make_backend ? nullptr : MakeBackend(options)),
        device_weights(own_backend ? own_backend.get() : backend),
        store(MakeStore(checkpoint, experts, &device_weights)),
        executor(&store, own_backend ? own_backend.get() : backend, options.activation_dtype) {}

  std::unique_ptr<KernelBackend> own_backend;
  DeviceWeights device_weights;
  ExpertStore store;
  ExpertFfn executor;
};

class LocalModel::Collector final : public EventSink {
 public:
  explicit Collector(size_t count) : results_(count) {}

  void OnStep(const StepEvents& events) override {
    MutexLock lock(&mutex_);
    for (const ScoredTokens& scored : events.prompt_tokens) {
      SequenceResult& result = at(scored.sequence_id);
      M1_CHECK(static_cast<size_t>(scored.first_index) == result.prompt.size());
      result.prompt.insert(result.prompt.end(), scored.tokens.begin(), scored.tokens.end());
    }
    for (const ScoredTokens& scored : events.tokens) {
      SequenceResult& result = at(scored.sequence_id);
      result.tokens.insert(result.tokens.end(), scored.tokens.begin(), scored.tokens.end());
    }
    for (const FinishedSequence& finished : events.finished) {
      at(finished.sequence_id).finished = finished;
      ++num_finished_;
    }
    for (const int64_t id : events.preempted_sequence_ids) {
      ++at(id).num_preemptions;
      preempted_.push_back(id);
    }
    changed_.SignalAll();
  }

  // Waits until `count` sequences finished; hands out what was preempted meanwhile.
  std::vector<int64_t> WaitForFinished(size_t count) {
    MutexLock lock(&mutex_);
    while (num_finished_ < count && preempted_.empty()) changed_.Wait(&mutex_);
    return std::exchange(preempted_, {});
  }
  size_t num_finished() {
    MutexLock lock(&mutex_);
    return num_finished_;
  }
  SequenceResult result(int64_t id) {
    MutexLock lock(&mutex_);
    return at(id);
  }

 private:
  SequenceResult& at(int64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return results_[static_cast<size_t>(id)];
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<SequenceResult> results_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> preempted_ ABSL_GUARDED_BY(mutex_);
  size_t num_finished_ ABSL_GUARDED_BY(mutex_) = 0;
};

LocalModel::LocalModel(const std::string& directory, const LocalModelOptions& options)
    : options_(options) {
  auto checkpoint = Checkpoint::Open(directory);
  M1_CHECK_MSG(checkpoint.ok(), std::string(checkpoint.status().message()));
  checkpoint_ = *std::move(checkpoint);
  backend_ = MakeBackend(options);
  std::vector<ExpertExecutor*> executors;
  for (const std::vector<int32_t>& experts : options.shards) {
    expert_workers_.push_back(
        std::make_unique<ExpertWorker>(*checkpoint_, experts, backend_.get(), options));
    executors.push_back(&expert_workers_.back()->executor);
  }
  if (executors.empty()) {
    exchange_ = std::make_unique<DirectExchange>(checkpoint_.get());
  } else {
    exchange_ = std::make_unique<InprocExchange>(config().num_experts, executors);
  }
  if (options.wrap_exchange) exchange_ = options.wrap_exchange(std::move(exchange_));
  AttentionWeights weights = checkpoint_->attention_weights();
  if (options.edit_weights) options.edit_weights(weights);
  device_weights_ = std::make_unique<DeviceWeights>(backend_.get());
  forward_ = std::make_unique<ForwardPass>(
      checkpoint_->config(), device_weights_->Add(weights).value(), backend_.get(), exchange_.get(),
      ForwardOptions{.activation_dtype = options.activation_dtype,
                     .max_rows = options.limits.max_step_tokens,
                     .num_kv_blocks = options.limits.kv_blocks,
                     .num_state_slots = options.limits.max_sequences});
  if (options.warm_up) WarmUp();
}

void LocalModel::WarmUp() {
  absl::Status status = forward_->WarmUp(options_.limits.max_context_tokens);
  for (const auto& worker : expert_workers_) {
    status.Update(worker->executor.WarmUp(int64_t{options_.limits.max_step_tokens} *
                                          config().num_experts_per_token));
  }
  M1_CHECK_MSG(status.ok(), std::string(status.message()));
}

LocalModel::~LocalModel() = default;

Engine& LocalModel::engine() {
  if (engine_ == nullptr) {
    engine_ =
        std::make_unique<Engine>(EngineOptions{.limits = options_.limits,
                                               .expert_loss_timeout = options_.expert_loss_timeout,
                                               .lanes = options_.lanes,
                                               .heartbeat = options_.heartbeat},
                                 std::move(forward_), exchange_.get());
  }
  return *engine_;
}

std::vector<SequenceResult> LocalModel::Run(const std::vector<SequenceStart>& starts,
                                            bool at_once) {
  auto collector = std::make_shared<Collector>(starts.size());
  const int64_t client = engine().AddClient(collector);
  const auto submit = [&](SequenceStart start) {
    M1_CHECK(engine_->Submit(client, std::move(start)).ok());
  };
  const auto wait_for = [&](size_t count) {
    while (collector->num_finished() < count) {
      for (const int64_t id : collector->WaitForFinished(count)) {
        SequenceStart start = starts[static_cast<size_t>(id)];
        start.sequence_id = id;
        submit(Resumed(std::move(start), collector->result(id)));
      }
    }
  };
  for (size_t i = 0; i < starts.size(); ++i) {
    SequenceStart start = starts[i];
    start.sequence_id = static_cast<int64_t>(i);
    start.arrival_order = static_cast<int64_t>(i);
    submit(std::move(start));
    if (!at_once) wait_for(i + 1);
  }
  wait_for(starts.size());
  std::vector<SequenceResult> results;
  for (size_t i = 0; i < starts.size(); ++i) {
    results.push_back(collector->result(static_cast<int64_t>(i)));
  }
  engine_->RemoveClient(client);
  return results;
}

EngineStats LocalModel::stats() const { return engine_->stats(); }

}  // namespace m1
