#include "common/model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/model/input_file.h"
#include "common/model/quantization_config.h"
#include "common/model/strict_json.h"

namespace m1 {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
// Far above any model of the family; they keep every product of two extents within 64 bits.
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxExtent = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxEosIds = 64;

absl::Status Wrong(absl::string_view key, const json& value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, " is ", JsonForMessage(value), ", wanted ", wanted));
}

// The keys of one JSON object. A key whose value is null counts as absent.
class Keys {
 public:
  explicit Keys(const json& object) : object_(object) {}

  const json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  // Integers in [low, high].
  absl::StatusOr<int64_t> Int(const char* key, int64_t low, int64_t high,
                              std::optional<int64_t> fallback = std::nullopt) const {
    const json* value = Find(key);
    if (value == nullptr) {
      if (fallback.has_value()) return *fallback;
      return absl::InvalidArgumentError(absl::StrCat(key, " is missing"));
    }
    const std::string wanted = absl::StrCat("an integer from ", low, " to ", high);
    // An unsigned value above int64 would turn negative: refuse it by its own type first.
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() &&
                        value->get<uint64_t>() > std::numeric_limits<int64_t>::max());
    if (!fits) return Wrong(key, *value, wanted);
    const int64_t number = value->get<int64_t>();
    if (number < low || number > high) return Wrong(key, *value, wanted);
    return number;
  }

  absl::StatusOr<int32_t> Int32(const char* key, int64_t low, int64_t high,
                                std::optional<int64_t> fallback = std::nullopt) const {
    M1_ASSIGN_OR_RETURN(const int64_t number, Int(key, low, high, fallback));
    return static_cast<int32_t>(number);
  }

  // Finite numbers in (low, high].
  absl::StatusOr<double> Number(const char* key, double low, double high, double fallback) const {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > low && number <= high)) {
      return Wrong(key, *value, absl::StrFormat("a number in (%g, %g]", low, high));
    }
    return number;
  }

  absl::StatusOr<bool> Bool(const char* key, bool fallback) const {
    const json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Wrong(key, *value, "true or false");
    return value->get<bool>();
  }

 private:
  const json& object_;
};

// Each family's spellings of the same facts.
struct KeyNames {
  const char* lightning_alpha;
  const char* lightning_beta;
  const char* softmax_alpha;
  const char* softmax_beta;
  const char* mlp_alpha;
  const char* mlp_beta;
};
constexpr KeyNames kOriginalKeys = {"layernorm_linear_attention_alpha",
                                    "layernorm_linear_attention_beta",
                                    "layernorm_full_attention_alpha",
                                    "layernorm_full_attention_beta",
                                    "layernorm_mlp_alpha",
                                    "layernorm_mlp_beta"};
constexpr KeyNames kTransformersKeys = {"linear_attn_alpha_factor", "linear_attn_beta_factor",
                                        "full_attn_alpha_factor",   "full_attn_beta_factor",
                                        "mlp_alpha_factor",         "mlp_beta_factor"};

absl::Status ParseModelType(const Keys& keys, ModelConfig* config) {
  const json* value = keys.Find("model_type");
  if (value == nullptr) return absl::InvalidArgumentError("model_type is missing");
  constexpr const char* kWanted =
      "minimax_m1, MiniMaxM1, minimax_text_01, MiniMaxText01 or minimax";
  if (!value->is_string()) return Wrong("model_type", *value, kWanted);
  config->model_type = value->get<std::string>();
  if (config->model_type == "minimax") {
    config->format = CheckpointFormat::kTransformers;
    return absl::OkStatus();
  }
  for (const char* name : {"minimax_m1", "MiniMaxM1", "minimax_text_01", "MiniMaxText01"}) {
    if (config->model_type == name) {
      config->format = CheckpointFormat::kOriginal;
      return absl::OkStatus();
    }
  }
  return Wrong("model_type", *value, kWanted);
}

// What this server does not compute must not be silently ignored.
absl::Status RefuseUnsupported(const Keys& keys) {
  if (const json* value = keys.Find("hidden_act"); value != nullptr && *value != "silu") {
    return Wrong("hidden_act", *value, "\"silu\"");
  }
  if (const json* value = keys.Find("shared_moe_mode"); value != nullptr && *value != "sigmoid") {
    return Wrong("shared_moe_mode", *value, "\"sigmoid\"");
  }
  if (const json* value = keys.Find("sliding_window"); value != nullptr) {
    return Wrong("sliding_window", *value, "null");
  }
  return absl::OkStatus();
}

absl::Status ParseSizes(const Keys& keys, ModelConfig* config) {
  M1_ASSIGN_OR_RETURN(config->num_layers, keys.Int32("num_hidden_layers", 1, kMaxLayers));
  M1_ASSIGN_OR_RETURN(config->hidden_size, keys.Int32("hidden_size", 1, kMaxExtent));
  M1_ASSIGN_OR_RETURN(config->num_heads, keys.Int32("num_attention_heads", 1, kMaxExtent));
  M1_ASSIGN_OR_RETURN(config->num_kv_heads,
                      keys.Int32("num_key_value_heads", 1, config->num_heads));
  if (config->num_heads % config->num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_key_value_heads is ", config->num_kv_heads,
                                                   ", wanted a divisor of num_attention_heads ",
                                                   config->num_heads));
  }
  // Transformers: head_dim defaults to hidden_size / num_attention_heads.
  std::optional<int64_t> head_dim;
  if (config->hidden_size % config->num_heads == 0) {
    head_dim = config->hidden_size / config->num_heads;
  }
  M1_ASSIGN_OR_RETURN(config->head_dim, keys.Int32("head_dim", 1, kMaxExtent, head_dim));
  if (int64_t{config->num_heads} * config->head_dim > kMaxExtent) {
    return absl::InvalidArgumentError(absl::StrCat("num_attention_heads * head_dim is ",
                                                   int64_t{config->num_heads} * config->head_dim,
                                                   ", limit ", kMaxExtent));
  }
  M1_ASSIGN_OR_RETURN(config->num_experts, keys.Int32("num_local_experts", 1, kMaxExperts));
  M1_ASSIGN_OR_RETURN(
      config->num_experts_per_token,
      keys.Int32("num_experts_per_tok", 1, config->num_experts, std::min(2, config->num_experts)));
  M1_ASSIGN_OR_RETURN(config->expert_intermediate_size,
                      keys.Int32("intermediate_size", 1, kMaxExtent));
  M1_ASSIGN_OR_RETURN(config->shared_intermediate_size,
                      keys.Int32("shared_intermediate_size", 0, kMaxExtent, 0));
  if (config->shared_intermediate_size > 0 && config->format == CheckpointFormat::kTransformers) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared_intermediate_size is ", config->shared_intermediate_size,
                     ", but model_type minimax has no shared expert"));
  }
  M1_ASSIGN_OR_RETURN(config->vocab_size, keys.Int32("vocab_size", 1, kMaxVocab));
  // Positions are converted to fp32 through int32. 131072 is the default of both configuration
  // classes.
  M1_ASSIGN_OR_RETURN(
      config->max_context_tokens,
      keys.Int("max_position_embeddings", 1, std::numeric_limits<int32_t>::max(), 131072));
  return absl::OkStatus();
}

// `key` as a list of layer kinds; nullopt when absent.
absl::StatusOr<std::optional<std::vector<LayerKind>>> ParseKindList(const Keys& keys,
                                                                    const char* key,
                                                                    int32_t num_layers) {
  const json* list = keys.Find(key);
  if (list == nullptr) return std::nullopt;
  if (!list->is_array() || list->size() != static_cast<size_t>(num_layers)) {
    return Wrong(key, *list, absl::StrCat("an array of num_hidden_layers = ", num_layers));
  }
  std::vector<LayerKind> kinds;
  for (const json& item : *list) {
    if (item == 0 || item == "linear_attention") {
      kinds.push_back(LayerKind::kLightning);
    } else if (item == 1 || item == "full_attention") {
      kinds.push_back(LayerKind::kSoftmax);
    } else {
      return Wrong(absl::StrCat(key, "[", kinds.size(), "]"), item,
                   "0, 1, \"linear_attention\" or \"full_attention\"");
    }
  }
  return std::make_optional(std::move(kinds));
}

absl::Status ParseLayerKinds(const Keys& keys, ModelConfig* config) {
  M1_ASSIGN_OR_RETURN(const auto types, ParseKindList(keys, "layer_types", config->num_layers));
  M1_ASSIGN_OR_RETURN(const auto list, ParseKindList(keys, "attn_type_list", config->num_layers));
  if (types.has_value() && list.has_value() && *types != *list) {
    return absl::InvalidArgumentError("layer_types and attn_type_list disagree");
  }
  if (!types.has_value() && !list.has_value()) {
    return absl::InvalidArgumentError(config->format == CheckpointFormat::kOriginal
                                          ? "attn_type_list is missing"
                                          : "layer_types is missing");
  }
  config->layer_kinds = types.has_value() ? *types : *list;
  return absl::OkStatus();
}

absl::Status ParseScale(const Keys& keys, const char* alpha, const char* beta,
                        ResidualScale* scale) {
  constexpr double kLimit = 1e6;
  M1_ASSIGN_OR_RETURN(const double a, keys.Number(alpha, -kLimit, kLimit, 1.0));
  M1_ASSIGN_OR_RETURN(const double b, keys.Number(beta, -kLimit, kLimit, 1.0));
  *scale = {static_cast<float>(a), static_cast<float>(b)};
  return absl::OkStatus();
}

absl::Status ParseNorms(const Keys& keys, ModelConfig* config) {
  M1_ASSIGN_OR_RETURN(const double eps, keys.Number("rms_norm_eps", 0.0, 1.0, 1e-5));
  config->rms_norm_eps = static_cast<float>(eps);
  const bool transformers = config->format == CheckpointFormat::kTransformers;
  const KeyNames& names = transformers ? kTransformersKeys : kOriginalKeys;
  M1_RETURN_IF_ERROR(
      ParseScale(keys, names.lightning_alpha, names.lightning_beta, &config->lightning_scale));
  M1_RETURN_IF_ERROR(
      ParseScale(keys, names.softmax_alpha, names.softmax_beta, &config->softmax_scale));
  M1_RETURN_IF_ERROR(ParseScale(keys, names.mlp_alpha, names.mlp_beta, &config->mlp_scale));
  M1_ASSIGN_OR_RETURN(config->postnorm, keys.Bool("postnorm", transformers));
  if (transformers && !config->postnorm) {
    return absl::InvalidArgumentError(
        "postnorm is false, but model_type minimax is always post-norm");
  }
  M1_ASSIGN_OR_RETURN(config->tie_word_embeddings, keys.Bool("tie_word_embeddings", false));
  return absl::OkStatus();
}

// rope_parameters (transformers 5) or rope_scaling: only the plain rotary embedding is known.
absl::Status CheckRopeType(const char* key, const json& rope) {
  if (!rope.is_object()) return Wrong(key, rope, "an object");
  for (const char* type_key : {"rope_type", "type"}) {
    const auto it = rope.find(type_key);
    if (it != rope.end() && *it != "default") {
      return Wrong(absl::StrCat(key, ".", type_key), *it, "\"default\"");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseRotary(const Keys& keys, ModelConfig* config) {
  constexpr double kMaxTheta = 1e30;
  constexpr double kDefaultTheta = 1e6;  // of both configuration classes
  M1_ASSIGN_OR_RETURN(config->rope_theta, keys.Number("rope_theta", 0.0, kMaxTheta, kDefaultTheta));
  M1_ASSIGN_OR_RETURN(double factor, keys.Number("partial_rotary_factor", 0.0, 1.0, 1.0));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* rope = keys.Find(key);
    if (rope == nullptr) continue;
    M1_RETURN_IF_ERROR(CheckRopeType(key, *rope));
    const Keys inner(*rope);
    const bool has_theta = keys.Find("rope_theta") != nullptr;
    absl::StatusOr<double> theta = inner.Number("rope_theta", 0.0, kMaxTheta, config->rope_theta);
    if (!theta.ok()) return AddContext(theta.status(), key);
    if (has_theta && *theta != config->rope_theta) {
      return absl::InvalidArgumentError(absl::StrCat("rope_theta is ", config->rope_theta, ", but ",
                                                     key, ".rope_theta is ", *theta));
    }
    config->rope_theta = *theta;
    absl::StatusOr<double> inner_factor = inner.Number("partial_rotary_factor", 0.0, 1.0, factor);
    if (!inner_factor.ok()) return AddContext(inner_factor.status(), key);
    factor = *inner_factor;
  }
  const auto by_factor = static_cast<int64_t>(config->head_dim * factor);
  M1_ASSIGN_OR_RETURN(config->rotary_dim, keys.Int32("rotary_dim", 2, config->head_dim, by_factor));
  if (config->rotary_dim < 2 || config->rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("rotary_dim is ", config->rotary_dim,
                                                   ", wanted an even number from 2 to head_dim ",
                                                   config->head_dim));
  }
  return absl::OkStatus();
}

absl::Status ParseDType(const Keys& keys, ModelConfig* config) {
  for (const char* key : {"torch_dtype", "dtype"}) {
    const json* value = keys.Find(key);
    if (value == nullptr) continue;
    const std::string text = value->is_string() ? value->get<std::string>() : "";
    const absl::string_view name = absl::StripPrefix(text, "torch.");
    if (name == "bfloat16") {
      config->weights_dtype = DType::kBf16;
    } else if (name == "float32") {
      config->weights_dtype = DType::kF32;
    } else {
      return Wrong(key, *value, "\"bfloat16\" or \"float32\"");
    }
  }
  return absl::OkStatus();
}

// eos_token_id: absent, one id, or a list. Adds to the ids, sorted, each once.
absl::Status AddEosIds(const Keys& keys, ModelConfig* config) {
  const json* value = keys.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > static_cast<size_t>(kMaxEosIds)) {
    return Wrong("eos_token_id", list, absl::StrCat("at most ", kMaxEosIds, " ids"));
  }
  std::vector<int32_t>& ids = config->eos_token_ids;
  for (const json& item : list) {
    const json object = {{"eos_token_id", item}};
    M1_ASSIGN_OR_RETURN(const int32_t id,
                        Keys(object).Int32("eos_token_id", 0, config->vocab_size - 1));
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return absl::OkStatus();
}

}  // namespace

int32_t ModelConfig::num_lightning_layers() const {
  return static_cast<int32_t>(
      std::count(layer_kinds.begin(), layer_kinds.end(), LayerKind::kLightning));
}

int32_t ModelConfig::num_softmax_layers() const { return num_layers - num_lightning_layers(); }

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json) {
  M1_ASSIGN_OR_RETURN(const json document, ParseStrictJson(config_json, JsonLimits{}));
  const Keys keys(document);
  ModelConfig config;
  M1_RETURN_IF_ERROR(ParseModelType(keys, &config));
  M1_RETURN_IF_ERROR(RefuseUnsupported(keys));
  if (const json* value = keys.Find("quantization_config"); value != nullptr) {
    M1_ASSIGN_OR_RETURN(config.quantization, ParseQuantization(*value));
  }
  M1_RETURN_IF_ERROR(ParseSizes(keys, &config));
  M1_RETURN_IF_ERROR(ParseLayerKinds(keys, &config));
  M1_RETURN_IF_ERROR(ParseNorms(keys, &config));
  M1_RETURN_IF_ERROR(ParseRotary(keys, &config));
  M1_RETURN_IF_ERROR(ParseDType(keys, &config));
  M1_RETURN_IF_ERROR(AddEosIds(keys, &config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  M1_ASSIGN_OR_RETURN(const std::string text,
                      ReadInputFile(directory, "config.json", kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) return AddContext(config.status(), absl::StrCat(directory, "/config.json"));
  const absl::StatusOr<std::string> generation =
      ReadInputFile(directory, "generation_config.json", kMaxConfigBytes);
  if (generation.ok()) {
    absl::StatusOr<json> document = ParseStrictJson(*generation, JsonLimits{});
    const absl::Status status =
        document.ok() ? AddEosIds(Keys(*document), &*config) : document.status();
    if (!status.ok()) return AddContext(status, absl::StrCat(directory, "/generation_config.json"));
  } else if (!absl::IsNotFound(generation.status())) {
    return generation.status();
  }
  if (config->format == CheckpointFormat::kTransformers && config->rotary_dim != config->head_dim) {
    M1_LOG(kInfo) << "rotary_dim=" << config->rotary_dim << " head_dim=" << config->head_dim
                  << " rotating part of each head as config.json says; transformers 5 ignores the "
                     "key and rotates the whole head";
  }
  return config;
}

}  // namespace m1
