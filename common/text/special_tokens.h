// Tokens that stand for themselves: their text is not made by merges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace m1 {

struct SpecialToken {
  std::string text;
  int32_t id = 0;
  bool is_control = true;  // false: an added token whose text is part of what readers see
};

// Immutable, thread-safe.
class SpecialTokens {
 public:
  struct Match {
    size_t begin = 0;
    size_t num_bytes = 0;
    int32_t id = 0;
  };

  // No text is empty or comes twice.
  explicit SpecialTokens(std::vector<SpecialToken> tokens);

  std::optional<int32_t> Find(std::string_view text) const;
  bool IsControl(int32_t id) const { return control_ids_.contains(id); }

  // The leftmost occurrence of any at or after `begin`; the longest of those that begin there.
  std::optional<Match> FindNext(std::string_view text, size_t begin) const;

 private:
  std::vector<SpecialToken> tokens_;  // by text: the prefixes of a position are found by narrowing
  std::vector<bool> begins_token_;    // [256]
  absl::flat_hash_set<int32_t> control_ids_;
};

}  // namespace m1
