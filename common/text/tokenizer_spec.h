// What a tokenizer's files say, before anyone has checked that it makes sense.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/text/special_tokens.h"

namespace m1 {

struct VocabEntry {
  std::string spelling;  // in the byte alphabet
  int64_t id = 0;
};

struct TokenizerSpec {
  std::vector<std::string> patterns;  // of the pre-tokenizer, one after the other
  std::vector<VocabEntry> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // in the byte alphabet, by rank
  std::vector<SpecialToken> specials;
  bool ignore_merges = false;  // a piece that is in the vocabulary is that token, merges or not
};

// Errors of all: DataLoss naming the key.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view tokenizer_json);
absl::StatusOr<std::vector<VocabEntry>> ParseVocabJson(std::string_view vocab_json);
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseMergesText(
    std::string_view merges_txt);

// The special tokens of tokenizer_config.json: added_tokens_decoder, and the tokens in roles
// (bos_token, ...) that `vocab` has.
absl::StatusOr<std::vector<SpecialToken>> ParseTokenizerConfig(
    std::string_view tokenizer_config_json, const std::vector<VocabEntry>& vocab);

}  // namespace m1
