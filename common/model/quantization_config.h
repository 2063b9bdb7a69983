// The quantization_config of a config.json.
#pragma once

#include "absl/status/statusor.h"
#include <nlohmann/json.hpp>

#include "common/model/config.h"

namespace m1 {

// As `m1 quantize` writes it: {"quant_method": "m1", "format": "int8" | "int4",
// "scope": "experts" | "all", "group_size": 32 | 64 (int4)}.
// Errors: InvalidArgument naming the key.
absl::StatusOr<WeightQuantization> ParseQuantization(const nlohmann::json& value);

}  // namespace m1
