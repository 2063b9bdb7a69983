#include "common/model/checkpoint.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/model/fingerprint.h"
#include "common/model/strict_json.h"
#include "common/model/tensor_table.h"
#include "common/model/weight_names.h"

namespace m1 {
namespace {

absl::Status TensorError(const TensorRecord& record, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(record.file->file().path(), ": tensor ",
                                          QuoteForMessage(record.entry->name), " ", what));
}

// The matrices share one type, the embedding's. Norms, gates and the like may also be fp32.
absl::Status CheckTensor(const TensorSpec& spec, const TensorRecord& record, DType matrix_dtype) {
  const SafetensorsEntry& entry = *record.entry;
  if (!(entry.shape == spec.shape)) {
    return TensorError(record, absl::StrCat("has shape ", entry.shape.ToString(),
                                            ", config.json wants ", spec.shape.ToString()));
  }
  const bool fp32_too = MayStayFp32(spec.slot);
  if (entry.dtype == matrix_dtype || (fp32_too && entry.dtype == DType::kF32)) {
    return absl::OkStatus();
  }
  return TensorError(record,
                     absl::StrCat("is ", SafetensorsDTypeName(entry.dtype), ", wanted ",
                                  SafetensorsDTypeName(matrix_dtype),
                                  fp32_too ? " or F32" : " like model.embed_tokens.weight"));
}

// Names, shapes and types of all tensors against the config, and each view put in its place.
class WeightBinder {
 public:
  WeightBinder(const ModelConfig& config, const TensorTable& table)
      : config_(config), table_(table) {}

  // Sets weights_dtype and shared_intermediate_size of `config` as the tensors have them.
  static absl::Status AdoptTensorFacts(const TensorTable& table, ModelConfig* config) {
    const TensorRecord* embedding = table.Find("model.embed_tokens.weight");
    if (embedding != nullptr) {
      config->weights_dtype = embedding->entry->dtype;
      if (config->weights_dtype != DType::kF32 && config->weights_dtype != DType::kBf16) {
        return TensorError(*embedding,
                           absl::StrCat("is ", SafetensorsDTypeName(embedding->entry->dtype),
                                        ", wanted BF16 or F32"));
      }
    }
    if (config->shared_intermediate_size == 0) return absl::OkStatus();
    const TensorRecord* shared = table.Find(SharedGateProjName(0));
    if (shared != nullptr && shared->entry->shape.rank() == 2 &&
        shared->entry->shape[0] == config->expert_intermediate_size) {
      config->shared_intermediate_size = config->expert_intermediate_size;
    }
    return absl::OkStatus();
  }

  absl::Status Bind() {
    attention.layers.resize(static_cast<size_t>(config_.num_layers));
    experts.resize(static_cast<size_t>(config_.num_layers));
    const bool fused = config_.format == CheckpointFormat::kTransformers &&
                       table_.Find(FusedGateUpName(0)) != nullptr;
    layout_ = fused ? ExpertLayout::kFused : ExpertLayout::kSeparate;
    M1_RETURN_IF_ERROR(
        ForEachTensor(config_, layout_, [this](const TensorSpec& spec) { return BindOne(spec); }));
    if (config_.tie_word_embeddings) attention.lm_head = attention.embedding;
    return RefuseUnexpected();
  }

  AttentionWeights attention;
  std::vector<std::vector<ExpertWeights>> experts;  // [layer][expert]
  std::vector<ConstTensorView> attention_views;     // each file tensor once

 private:
  absl::Status BindOne(const TensorSpec& spec) {
    const TensorRecord* record = table_.Find(spec.name);
    if (record == nullptr) {
      return absl::DataLossError(
          absl::StrCat(table_.source(), ": tensor ", QuoteForMessage(spec.name), " is missing"));
    }
    M1_RETURN_IF_ERROR(CheckTensor(spec, *record, config_.weights_dtype));
    ++num_bound_;
    if (IsExpertSlot(spec.slot)) {
      PlaceExpert(spec, record->view());
    } else {
      attention_views.push_back(record->view());
      if (spec.layer < 0) {
        PlaceOutside(spec.slot, record->view());
      } else {
        PlaceLayer(spec.slot, record->view(), &attention.layers[static_cast<size_t>(spec.layer)]);
      }
    }
    return absl::OkStatus();
  }

  void PlaceOutside(TensorSlot slot, ConstTensorView view) {
    if (slot == TensorSlot::kEmbedding) attention.embedding = view;
    if (slot == TensorSlot::kFinalNorm) attention.final_norm = view;
    if (slot == TensorSlot::kLmHead) attention.lm_head = view;
  }

  static void PlaceLayer(TensorSlot slot, ConstTensorView view, AttentionLayerWeights* layer) {
    const auto lightning = [layer]() -> LightningWeights& {
      return layer->lightning.has_value() ? *layer->lightning : layer->lightning.emplace();
    };
    const auto softmax = [layer]() -> SoftmaxWeights& {
      return layer->softmax.has_value() ? *layer->softmax : layer->softmax.emplace();
    };
    const auto shared = [layer]() -> SharedMlpWeights& {
      return layer->shared_mlp.has_value() ? *layer->shared_mlp : layer->shared_mlp.emplace();
    };
    switch (slot) {
      case TensorSlot::kInputNorm:
        layer->input_norm = view;
        break;
      case TensorSlot::kPostAttentionNorm:
        layer->post_attention_norm = view;
        break;
      case TensorSlot::kGate:
        layer->gate = view;
        break;
      case TensorSlot::kQkvProj:
        lightning().qkv_proj = view;
        break;
      case TensorSlot::kOutputGate:
        lightning().output_gate = view;
        break;
      case TensorSlot::kInnerNorm:
        lightning().norm = view;
        break;
      case TensorSlot::kOutProj:
        lightning().out_proj = view;
        break;
      case TensorSlot::kQProj:
        softmax().q_proj = view;
        break;
      case TensorSlot::kKProj:
        softmax().k_proj = view;
        break;
      case TensorSlot::kVProj:
        softmax().v_proj = view;
        break;
      case TensorSlot::kOProj:
        softmax().o_proj = view;
        break;
      case TensorSlot::kSharedGateProj:
        shared().gate_proj = view;
        break;
      case TensorSlot::kSharedUpProj:
        shared().up_proj = view;
        break;
      case TensorSlot::kSharedDownProj:
        shared().down_proj = view;
        break;
      case TensorSlot::kSharedCoefficient:
        shared().coefficient = view;
        break;
      default:
        M1_CHECK_MSG(false, "not a tensor of an attention layer");
    }
  }

  void PlaceExpert(const TensorSpec& spec, ConstTensorView view) {
    std::vector<ExpertWeights>& layer = experts[static_cast<size_t>(spec.layer)];
    // Grows with the tensors that were found, never by what a hostile config merely claims.
    const int32_t num_seen = spec.expert < 0 ? config_.num_experts : spec.expert + 1;
    if (layer.size() < static_cast<size_t>(num_seen)) layer.resize(static_cast<size_t>(num_seen));
    const int64_t inter = config_.expert_intermediate_size;
    for (int32_t e = std::max(spec.expert, 0); e < num_seen; ++e) {
      ExpertWeights& expert = layer[static_cast<size_t>(e)];
      switch (spec.slot) {
        case TensorSlot::kExpertW1:
          expert.w1 = view;
          break;
        case TensorSlot::kExpertW2:
          expert.w2 = view;
          break;
        case TensorSlot::kExpertW3:
          expert.w3 = view;
          break;
        case TensorSlot::kFusedGateUp:
          expert.w1 = view[e].Rows(0, inter);
          expert.w3 = view[e].Rows(inter, inter);
          break;
        case TensorSlot::kFusedDown:
          expert.w2 = view[e];
          break;
        default:
          M1_CHECK_MSG(false, "not an expert's tensor");
      }
    }
  }

  // Every expected tensor was found: when the counts agree nothing else is there.
  absl::Status RefuseUnexpected() const {
    int64_t num_ignored = 0;
    for (const auto& [name, record] : table_.records()) {
      if (IsIgnoredTensor(config_, name)) ++num_ignored;
    }
    if (num_bound_ + num_ignored == static_cast<int64_t>(table_.records().size())) {
      return absl::OkStatus();
    }
    std::set<std::string> expected;
    M1_RETURN_IF_ERROR(ForEachTensor(config_, layout_, [&expected](const TensorSpec& spec) {
      expected.insert(spec.name);
      return absl::OkStatus();
    }));
    for (const auto& [name, record] : table_.records()) {
      if (!IsIgnoredTensor(config_, name) && expected.count(name) == 0) {
        return TensorError(record, "is unexpected: config.json asks for no such tensor");
      }
    }
    return absl::InternalError("tensors bound twice");
  }

  const ModelConfig& config_;
  const TensorTable& table_;
  ExpertLayout layout_ = ExpertLayout::kSeparate;
  int64_t num_bound_ = 0;
};

}  // namespace

struct Checkpoint::State {
  std::string directory;
  ModelConfig config;
  TensorTable table;
  std::string fingerprint;
  std::string weight_format;
  AttentionWeights attention;
  std::vector<std::vector<ExpertWeights>> experts;  // [layer][expert]
  std::vector<ConstTensorView> attention_views;

  std::vector<ConstTensorView> ExpertViews(const std::vector<int32_t>& wanted) const {
    std::vector<ConstTensorView> views;
    for (const std::vector<ExpertWeights>& layer : experts) {
      for (const int32_t expert : wanted) {
        M1_CHECK(expert >= 0 && expert < config.num_experts);
        const ExpertWeights& weights = layer[static_cast<size_t>(expert)];
        views.insert(views.end(), {weights.w1, weights.w2, weights.w3});
      }
    }
    return views;
  }
};

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  M1_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(directory));
  M1_ASSIGN_OR_RETURN(TensorTable table, TensorTable::Open(directory));
  M1_RETURN_IF_ERROR(WeightBinder::AdoptTensorFacts(table, &config));
  WeightBinder binder(config, table);
  M1_RETURN_IF_ERROR(binder.Bind());
  M1_ASSIGN_OR_RETURN(std::string fingerprint, ComputeFingerprint(config, table));
  table.CloseDescriptors();
  std::string weight_format(DTypeName(config.weights_dtype));
  auto state = std::unique_ptr<State>(
      new State{directory, std::move(config), std::move(table), std::move(fingerprint),
                std::move(weight_format), std::move(binder.attention), std::move(binder.experts),
                std::move(binder.attention_views)});
  return std::unique_ptr<Checkpoint>(new Checkpoint(std::move(state)));
}

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::~Checkpoint() = default;

const ModelConfig& Checkpoint::config() const { return state_->config; }
const std::string& Checkpoint::fingerprint() const { return state_->fingerprint; }
const std::string& Checkpoint::weight_format() const { return state_->weight_format; }
AttentionWeights Checkpoint::attention_weights() const { return state_->attention; }

ExpertWeights Checkpoint::expert_weights(int32_t layer, int32_t expert) const {
  M1_CHECK(layer >= 0 && layer < config().num_layers && expert >= 0 &&
           expert < config().num_experts);
  return state_->experts[static_cast<size_t>(layer)][static_cast<size_t>(expert)];
}

absl::Status Checkpoint::PrefetchAttention(const PrefetchProgress& progress) const {
  return AddContext(PrefetchPages(state_->attention_views, progress), state_->directory);
}

absl::Status Checkpoint::PrefetchExperts(const std::vector<int32_t>& wanted,
                                         const PrefetchProgress& progress) const {
  return AddContext(PrefetchPages(state_->ExpertViews(wanted), progress), state_->directory);
}

int64_t Checkpoint::attention_weight_bytes() const {
  int64_t bytes = 0;
  for (const ConstTensorView& view : state_->attention_views) bytes += view.num_bytes();
  return bytes;
}

int64_t Checkpoint::expert_weight_bytes(const std::vector<int32_t>& wanted) const {
  int64_t bytes = 0;
  for (const ConstTensorView& view : state_->ExpertViews(wanted)) bytes += view.num_bytes();
  return bytes;
}

}  // namespace m1
