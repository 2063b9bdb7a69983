#include "common/model/quantization_config.h"

#include "absl/strings/str_cat.h"

#include "common/model/strict_json.h"

namespace m1 {
namespace {

using nlohmann::json;

// The key's value, null when absent.
json At(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() ? json() : *it;
}

absl::Status Wrong(absl::string_view key, const json& value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("quantization_config", key, " is ", JsonForMessage(value), ", wanted ", wanted));
}

}  // namespace

absl::StatusOr<WeightQuantization> ParseQuantization(const json& value) {
  if (!value.is_object()) return Wrong("", value, "an object that m1 quantize wrote");
  const json method = At(value, "quant_method");
  if (method != "m1") return Wrong(".quant_method", method, "m1: quantize with m1 quantize");
  const json format = At(value, "format");
  if (format != "int8" && format != "int4") return Wrong(".format", format, "int8 or int4");
  const json scope = At(value, "scope");
  if (scope != "experts" && scope != "all") return Wrong(".scope", scope, "experts or all");
  WeightQuantization quantization;
  quantization.everything = scope == "all";
  quantization.format = format == "int8" ? MatrixFormat::kInt8 : MatrixFormat::kInt4;
  if (format == "int8") return quantization;
  const json group_size = At(value, "group_size");
  if (group_size != 32 && group_size != 64) return Wrong(".group_size", group_size, "32 or 64");
  quantization.group_size = group_size.get<int32_t>();
  return quantization;
}

}  // namespace m1
