// The parts of tokenizer.json and tokenizer_config.json beside the vocabulary and the merges.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

#include "common/text/tokenizer_spec.h"

namespace m1 {

// Fills patterns, specials and ignore_merges. Errors: DataLoss naming the key and the value that is
// malformed or not supported.
absl::Status ReadTokenizerSettings(const nlohmann::json& tokenizer, TokenizerSpec* spec);

absl::StatusOr<std::vector<SpecialToken>> ReadConfigSpecials(const nlohmann::json& config,
                                                             const std::vector<VocabEntry>& vocab);

}  // namespace m1
