// Strict JSON in, JSON as Python's json.dumps(value, ensure_ascii=False) out.
//
// The model was trained on tool descriptions printed by Python, so its spelling is part of the
// prompt: ", " and
// ": " between items, keys in the order given, floats as Python's repr, integers with every digit.
// Stricter than Python's reader: NaN, infinities, floats that overflow, lone surrogates, text that
// is not UTF-8 are refused. Of equal keys the last value wins and keeps the first one's place, as
// in a Python dict.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

// Values nest at most this deep in what callers send: `{}` is 1, `{"a": []}` is 2.
inline constexpr int kMaxJsonDepth = 64;

struct JsonValue {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  std::string text;  // kString: the characters; kNumber and kBool: as Python's json prints them
  std::vector<JsonValue> items;   // kArray: the elements; kObject: the values
  std::vector<std::string> keys;  // kObject: keys[i] names items[i]

  // The value of `key`; null if this is no object or has no such key.
  const JsonValue* Find(absl::string_view key) const;
};

// Reads exactly one value, space around it allowed. Errors: InvalidArgument with the byte offset of
// the problem.
absl::StatusOr<JsonValue> ParseJson(absl::string_view text, int max_depth = kMaxJsonDepth);

std::string PrintPythonJson(const JsonValue& value);

// `text` as a JSON string literal. It must be UTF-8.
std::string PythonJsonString(absl::string_view text);

// Reads `text`, which must be one object, and prints it again. Errors: as ParseJson.
absl::StatusOr<std::string> CanonicalJsonObject(absl::string_view text,
                                                int max_depth = kMaxJsonDepth);

}  // namespace m1
