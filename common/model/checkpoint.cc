#include "common/model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/model/fingerprint.h"
#include "common/model/strict_json.h"
#include "common/model/tensor_table.h"
#include "common/model/weight_copy.h"
#include "common/model/weight_names.h"

namespace m1 {
namespace {

absl::Status TensorError(const TensorRecord& record, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(record.file->file().path(), ": tensor ",
                                          QuoteForMessage(record.entry->name), " ", what));
}

// A tensor of a quantised matrix: exactly this type and shape.
absl::Status CheckQuantized(const TensorRecord& record, DType dtype, const Shape& shape) {
  const SafetensorsEntry& entry = *record.entry;
  if (entry.dtype != dtype) {
    return TensorError(record,
                       absl::StrCat("is ", SafetensorsDTypeName(entry.dtype), ", wanted ",
                                    SafetensorsDTypeName(dtype), " by quantization_config"));
  }
  if (entry.shape == shape) return absl::OkStatus();
  return TensorError(record, absl::StrCat("has shape ", entry.shape.ToString(),
                                          ", config.json wants ", shape.ToString()));
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
  std::vector<MatrixView> attention_matrices;       // each file tensor once

 private:
  absl::Status BindOne(const TensorSpec& spec) {
    M1_ASSIGN_OR_RETURN(const TensorRecord record, FindTensor(spec.name));
    MatrixView view = record.view();
    if (IsQuantizedSlot(spec.slot, config_.quantization)) {
      absl::StatusOr<QuantizedTensors> wanted = QuantizedAs(config_.quantization, spec.shape);
      if (!wanted.ok()) return TensorError(record, wanted.status().message());
      M1_ASSIGN_OR_RETURN(const TensorRecord scales, FindTensor(ScaleName(spec.name)));
      M1_RETURN_IF_ERROR(CheckQuantized(record, wanted->integers_dtype, wanted->integers));
      M1_RETURN_IF_ERROR(CheckQuantized(scales, wanted->scales_dtype, wanted->scales));
      view = {record.view(), scales.view()};
    } else {
      M1_RETURN_IF_ERROR(CheckTensor(spec, record, config_.weights_dtype));
    }
    if (IsExpertSlot(spec.slot)) {
      PlaceExpert(spec, view);
      return absl::OkStatus();
    }
    attention_matrices.push_back(view);
    if (spec.layer < 0) {
      PlaceOutside(spec.slot, view);
    } else {
      PlaceLayer(spec.slot, view, &attention.layers[static_cast<size_t>(spec.layer)]);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<TensorRecord> FindTensor(const std::string& name) {
    const TensorRecord* record = table_.Find(name);
    if (record == nullptr) {
      return absl::DataLossError(
          absl::StrCat(table_.source(), ": tensor ", QuoteForMessage(name), " is missing"));
    }
    ++num_bound_;
    return *record;
  }

  void PlaceOutside(TensorSlot slot, const MatrixView& view) {
    if (slot == TensorSlot::kEmbedding) attention.embedding = view.values;
    if (slot == TensorSlot::kFinalNorm) attention.final_norm = view.values;
    if (slot == TensorSlot::kLmHead) attention.lm_head = view;
  }

  static void PlaceLayer(TensorSlot slot, const MatrixView& view, AttentionLayerWeights* layer) {
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
        layer->input_norm = view.values;
        break;
      case TensorSlot::kPostAttentionNorm:
        layer->post_attention_norm = view.values;
        break;
      case TensorSlot::kGate:
        layer->gate = view.values;
        break;
      case TensorSlot::kQkvProj:
        lightning().qkv_proj = view;
        break;
      case TensorSlot::kOutputGate:
        lightning().output_gate = view;
        break;
      case TensorSlot::kInnerNorm:
        lightning().norm = view.values;
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
        shared().coefficient = view.values;
        break;
      default:
        M1_CHECK_MSG(false, "not a tensor of an attention layer");
    }
  }

  void PlaceExpert(const TensorSpec& spec, const MatrixView& view) {
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
    M1_RETURN_IF_ERROR(ForEachTensor(config_, layout_, [&](const TensorSpec& spec) {
      expected.insert(spec.name);
      if (IsQuantizedSlot(spec.slot, config_.quantization)) expected.insert(ScaleName(spec.name));
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

float ScaleAt(const MatrixView& matrix, int64_t index) {
  return matrix.scales.dtype() == DType::kBf16 ? Bf16ToFloat(matrix.scales.data_as<Bf16>()[index])
                                               : matrix.scales.data_as<float>()[index];
}

// Index of the first scale that is not a normal number above zero.
std::optional<int64_t> FindBadScale(const MatrixView& matrix) {
  for (int64_t i = 0; i < matrix.scales.num_elements(); ++i) {
    const float scale = ScaleAt(matrix, i);
    if (!std::isnormal(scale) || scale < 0.0F) return i;
  }
  return std::nullopt;
}

}  // namespace

struct Checkpoint::State {
  std::string directory;
  ModelConfig config;
  TensorTable table;
  std::string fingerprint;
  std::string weight_format;
  AttentionWeights attention;
  std::vector<std::vector<ExpertWeights>> experts;  // [layer][expert]
  std::vector<MatrixView> attention_matrices;

  // Pages made resident, then the scales looked at: before that they would cost a disk access each.
  absl::Status Load(const std::vector<MatrixView>& matrices, const PrefetchProgress& progress,
                    WeightMemory memory) const {
    std::vector<ConstTensorView> views;
    for (const MatrixView& matrix : matrices) {
      if (matrix.is_quantized()) views.push_back(matrix.scales);
    }
    for (const MatrixView& matrix : matrices) views.push_back(matrix.values);
    const absl::Status status = memory == WeightMemory::kMapped
                                    ? PrefetchPages(views, progress)
                                    : CopyPages(GroupByFile(table, views),
                                                memory == WeightMemory::kCopiedUncached, progress);
    if (!status.ok()) return AddContext(status, directory);
    for (const MatrixView& matrix : matrices) {
      if (!matrix.is_quantized()) continue;
      const std::optional<int64_t> index = FindBadScale(matrix);
      if (!index.has_value()) continue;
      return TensorError(RecordAt(matrix.scales.data()),
                         absl::StrCat("has the scale ", ScaleAt(matrix, *index), " at ", *index,
                                      " of a matrix, wanted normal numbers above 0"));
    }
    return absl::OkStatus();
  }

  // The tensor whose bytes `data` points into.
  const TensorRecord& RecordAt(const void* data) const {
    for (const auto& [name, record] : table.records()) {
      const auto* begin = static_cast<const std::byte*>(record.view().data());
      if (data >= begin && data < begin + record.entry->size_bytes) return record;
    }
    M1_CHECK_MSG(false, "a view of no tensor");
    return table.records().begin()->second;
  }

  std::vector<MatrixView> ExpertMatrices(const std::vector<int32_t>& wanted) const {
    std::vector<MatrixView> views;
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
  std::string weight_format = WeightFormatName(config);
  auto state = std::unique_ptr<State>(
      new State{directory, std::move(config), std::move(table), std::move(fingerprint),
                std::move(weight_format), std::move(binder.attention), std::move(binder.experts),
                std::move(binder.attention_matrices)});
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

absl::Status Checkpoint::PrefetchAttention(const PrefetchProgress& progress,
                                           WeightMemory memory) const {
  return state_->Load(state_->attention_matrices, progress, memory);
}

absl::Status Checkpoint::PrefetchExperts(const std::vector<int32_t>& wanted,
                                         const PrefetchProgress& progress,
                                         WeightMemory memory) const {
  return state_->Load(state_->ExpertMatrices(wanted), progress, memory);
}

int64_t Checkpoint::attention_weight_bytes() const {
  int64_t bytes = 0;
  for (const MatrixView& view : state_->attention_matrices) bytes += view.num_bytes();
  return bytes;
}

int64_t Checkpoint::expert_weight_bytes(const std::vector<int32_t>& wanted) const {
  int64_t bytes = 0;
  for (const MatrixView& view : state_->ExpertMatrices(wanted)) bytes += view.num_bytes();
  return bytes;
}

}  // namespace m1
