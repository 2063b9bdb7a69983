// JSON from outside, with limits: size, depth and number of values are bounded, a doubled key is an
// error, and no exception leaves. Used for config.json, index files and safetensors headers.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include <nlohmann/json.hpp>

namespace m1 {

struct JsonLimits {
  int max_depth = 32;
  // Objects, arrays, keys and scalars together. Bounds the memory: a value costs about 100 bytes.
  int64_t max_values = 1'000'000;
};

// The document, whose root is an object.
// Errors: InvalidArgument saying what is wrong, and where (byte offset, or the doubled key).
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, const JsonLimits& limits);

// `text` for a message: at most 64 bytes, control characters and non-ASCII bytes escaped.
std::string QuoteForMessage(absl::string_view text);
// "17", "[1, 2", "\"abc\"", ... : the beginning of a value for a message.
std::string JsonForMessage(const nlohmann::json& value);

}  // namespace m1
