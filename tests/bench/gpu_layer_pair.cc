#include "tests/bench/gpu_layer_pair.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

#include "attention_worker/forward_pass.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/exchange/inproc_exchange.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "tools/bench/median.h"

namespace m1 {
namespace {

using Clock = std::chrono::steady_clock;

// Weights of the pair out of a filled memory, int8 but for embedding, norms and gates.
class PairWeights {
 public:
  PairWeights(const ModelConfig& config, KernelBackend* backend, GpuMemory* memory)
      : config_(config), backend_(backend), memory_(memory) {}

  AttentionWeights Attention() {
    AttentionWeights weights;
    weights.embedding = memory_->Next(DType::kBf16, {config_.vocab_size, config_.hidden_size});
    weights.final_norm = Norm(config_.hidden_size);
    weights.lm_head = Matrix(config_.vocab_size, config_.hidden_size);
    weights.layers = {Lightning(), Softmax()};
    return weights;
  }
  ExpertWeights Expert() {
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.expert_intermediate_size;
    return {Matrix(inner, hidden), Matrix(hidden, inner), Matrix(inner, hidden)};
  }

 private:
  int64_t width() const { return int64_t{config_.num_heads} * config_.head_dim; }
  int64_t kv_width() const { return int64_t{config_.num_kv_heads} * config_.head_dim; }

  ConstTensorView Constant(int64_t n, float value) {
    const std::vector<float> values(static_cast<size_t>(n), value);
    constants_.push_back(backend_->NewTensor(DType::kF32, {n}));
    const ConstTensorView host(values.data(), DType::kF32, {n});
    M1_CHECK(backend_->Upload(host, constants_.back().view()).ok());
    return constants_.back().view();
  }
  ConstTensorView Norm(int64_t n) { return Constant(n, 1.0F); }
  // Rows of deviation 1 stay so.
  MatrixView Matrix(int64_t n, int64_t k) {
    constexpr float kDeviation = 64.0F;  // of the integers
    const ConstTensorView values = memory_->Next(DType::kI8, {n, k});
    return {values, Constant(n, 1.0F / (kDeviation * std::sqrt(static_cast<float>(k))))};
  }
  AttentionLayerWeights Layer() {
    AttentionLayerWeights layer;
    layer.input_norm = Norm(config_.hidden_size);
    layer.post_attention_norm = Norm(config_.hidden_size);
    layer.gate = memory_->Next(DType::kF32, {config_.num_experts, config_.hidden_size});
    return layer;
  }
  AttentionLayerWeights Lightning() {
    const int64_t hidden = config_.hidden_size;
    AttentionLayerWeights layer = Layer();
    layer.lightning = {Matrix(3 * width(), hidden), Matrix(width(), hidden), Norm(width()),
                       Matrix(hidden, width())};
    return layer;
  }
  AttentionLayerWeights Softmax() {
    const int64_t hidden = config_.hidden_size;
    AttentionLayerWeights layer = Layer();
    layer.softmax = {Matrix(width(), hidden), Matrix(kv_width(), hidden),
                     Matrix(kv_width(), hidden), Matrix(hidden, width())};
    return layer;
  }

  const ModelConfig config_;
  KernelBackend* const backend_;
  GpuMemory* const memory_;
  std::vector<Tensor> constants_;
};

int64_t BytesOf(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  return 3 * hidden * config.vocab_size + 8 * hidden * width + 2 * 4 * hidden * config.num_experts +
         2 * config.num_experts * 3 * hidden * config.expert_intermediate_size;
}

class LayerPair {
 public:
  LayerPair(const ModelConfig& config, KernelBackend* backend, cuda::Stream stream,
            GpuMemory* memory, const LayerPairOptions& options)
      : options_(options),
        backend_(backend),
        stream_(stream),
        weights_(config, backend, memory),
        store_(MakeStore(config, &weights_)),
        experts_(&store_, backend, DType::kBf16),
        exchange_(config.num_experts, {&experts_}),
        blocks_each_((std::max(options.context + options.steps, Most(options.prefill_rows)) - 1) /
                         kKvBlockTokens +
                     1),
        vocab_(config.vocab_size),
        forward_(config, weights_.Attention(), backend, &exchange_,
                 {.activation_dtype = DType::kBf16,
                  .max_rows = std::max(Most(options.prefill_rows), Most(options.decode_rows)),
                  .num_kv_blocks = blocks_each_ * Most(options.decode_rows),
                  .num_state_slots = Most(options.decode_rows)}) {
    for (int64_t sequence = 0; sequence < Most(options.decode_rows); ++sequence) {
      std::vector<int32_t>& table = tables_.emplace_back(static_cast<size_t>(blocks_each_));
      std::iota(table.begin(), table.end(), static_cast<int32_t>(sequence * blocks_each_));
    }
  }

  // Of one step, positions going on from the context.
  absl::StatusOr<double> Decode(int64_t rows, bool head) {
    return MedianOf(
        [&] {
          for (int step = 0; step < options_.steps; ++step) {
            StepBatch batch;
            for (int64_t row = 0; row < rows; ++row) {
              Append(static_cast<int32_t>(row), 1, options_.context + step, &batch);
              if (head) AskForLogits(static_cast<int32_t>(row), &batch);
            }
            M1_RETURN_IF_ERROR(Run(batch));
          }
          return absl::OkStatus();
        },
        options_.steps);
  }
  absl::StatusOr<double> Prefill(int64_t rows) {
    StepBatch batch;
    Append(0, rows, 0, &batch);
    return MedianOf(
        [&] {
          M1_RETURN_IF_ERROR(forward_.ResetSlot(0));
          return Run(batch);
        },
        1);
  }

 private:
  static int64_t Most(const std::vector<int64_t>& rows) {
    return rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  }
  static ExpertStore MakeStore(const ModelConfig& config, PairWeights* weights) {
    std::vector<int32_t> all(static_cast<size_t>(config.num_experts));
    std::iota(all.begin(), all.end(), 0);
    auto store = ExpertStore::Create(ShapeOf(config), all,
                                     [weights](int32_t, int32_t) { return weights->Expert(); });
    M1_CHECK_MSG(store.ok(), std::string(store.status().message()));
    return *std::move(store);
  }

  void Append(int32_t slot, int64_t rows, int64_t position, StepBatch* batch) const {
    const SequenceRows place{batch->num_rows(), rows, position};
    batch->sequences.push_back({place, slot, tables_[static_cast<size_t>(slot)]});
    for (int64_t i = 0; i < rows; ++i) {
      batch->positions.push_back(position + i);
      batch->token_ids.push_back(
          static_cast<int32_t>(((slot + 1) * 7919 + (position + i) * 104'729) % vocab_));
    }
  }
  static void AskForLogits(int32_t row, StepBatch* batch) {
    batch->logit_rows.push_back(row);
    batch->logit_temperatures.push_back(1.0F);
  }

  absl::Status Run(const StepBatch& batch) {
    return forward_.Run(batch, [](int64_t, TensorView, std::span<const float> lse) {
      const bool finite =
          std::all_of(lse.begin(), lse.end(), [](float x) { return std::isfinite(x); });
      return finite ? absl::OkStatus() : absl::InternalError("logits are not finite");
    });
  }

  template <typename Work>
  absl::StatusOr<double> MedianOf(Work work, int steps) {
    std::vector<double> seconds;
    for (int repeat = 0; repeat <= options_.repeats; ++repeat) {
      const Clock::time_point begin = Clock::now();
      M1_RETURN_IF_ERROR(work());
      M1_RETURN_IF_ERROR(backend_->Submit());
      if (const cuda::LaunchError error = cuda::Synchronize(stream_); error != 0) {
        return absl::InternalError(cuda::ErrorName(error));
      }
      const double all = std::chrono::duration<double>(Clock::now() - begin).count();
      if (repeat > 0) seconds.push_back(all / steps);  // the first one warms up
    }
    return Median(std::move(seconds));
  }

  const LayerPairOptions options_;
  KernelBackend* const backend_;
  const cuda::Stream stream_;
  PairWeights weights_;
  ExpertStore store_;
  ExpertFfn experts_;
  InprocExchange exchange_;
  const int64_t blocks_each_;
  const int64_t vocab_;
  ForwardPass forward_;
  std::vector<std::vector<int32_t>> tables_;  // of each sequence
};

// What the model's config.json says, with one layer of each kind and no shared expert.
ModelConfig PairOf(ModelConfig config) {
  config.num_layers = 2;
  config.layer_kinds = {LayerKind::kLightning, LayerKind::kSoftmax};
  config.shared_intermediate_size = 0;
  return config;
}

}  // namespace

absl::StatusOr<std::vector<LayerPairFigure>> MeasureLayerPair(const ModelConfig& config,
                                                              KernelBackend* backend,
                                                              cuda::Stream stream,
                                                              GpuMemory* weights,
                                                              const LayerPairOptions& options) {
  const ModelConfig pair_config = PairOf(config);
  if (BytesOf(pair_config) > weights->bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat("a layer pair has ", BytesOf(pair_config),
                                                     " bytes of weights, there are ",
                                                     weights->bytes()));
  }
  LayerPair pair(pair_config, backend, stream, weights, options);
  std::vector<LayerPairFigure> figures;
  for (const int64_t rows : options.decode_rows) {
    M1_ASSIGN_OR_RETURN(const double seconds, pair.Decode(rows, /*head=*/false));
    figures.push_back({"decode", rows, seconds});
    M1_ASSIGN_OR_RETURN(const double with_head, pair.Decode(rows, /*head=*/true));
    figures.push_back({"decode with head", rows, with_head});
  }
  for (const int64_t rows : options.prefill_rows) {
    M1_ASSIGN_OR_RETURN(const double seconds, pair.Prefill(rows));
    figures.push_back({"prefill", rows, seconds});
  }
  return figures;
}

}  // namespace m1
