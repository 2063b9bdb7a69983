// Text to token ids and back: byte-level byte-pair encoding as Hugging Face tokenizers does it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/text/bpe.h"
#include "common/text/pretokenizer.h"
#include "common/text/special_tokens.h"
#include "common/text/token_table.h"

namespace m1 {

struct TokenizerSpec;

// Immutable, thread-safe. Files are not trusted: what is malformed, or asks for something that this
// class does not do (a normalizer, another model than BPE, ...), is DataLoss naming key and value.
// The post-processor is ignored: control tokens come from the chat template, never from here.
class Tokenizer {
 public:
  // Reads tokenizer.json of `directory`; without one, vocab.json and merges.txt, with the special
  // tokens that tokenizer_config.json names. Errors: NotFound or DataLoss, naming the file.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);

  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json);

  // GPT-2's files and its pattern.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromVocabAndMerges(
      std::string_view vocab_json, std::string_view merges_txt,
      const std::vector<SpecialToken>& specials);

  // A special token's spelling in `utf8` stays plain text. Time is O(n log n) at worst. Errors:
  // InvalidArgument if `utf8` is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view utf8) const;

  // Spellings of special tokens become those tokens: of all that begin leftmost, the longest.
  absl::StatusOr<std::vector<int32_t>> EncodeWithSpecials(std::string_view utf8) const;

  std::optional<int32_t> SpecialTokenId(std::string_view text) const {
    return specials_.Find(text);
  }

  // Of a special token its own text; empty for ids without a token. Lives as long as this.
  std::string_view TokenBytes(int32_t id) const { return tokens_.Bytes(id); }
  bool HasToken(int32_t id) const { return tokens_.Has(id); }

  // Whether readers of an answer should not see it.
  bool IsSpecial(int32_t id) const { return specials_.IsControl(id); }

  // 1 + the largest id.
  int32_t vocab_size() const { return tokens_.size(); }

  // Special tokens as their text; bytes that form no character as U+FFFD, one for each maximal
  // subpart; ids without a token as nothing.
  std::string DecodeText(std::span<const int32_t> ids) const;

 private:
  Tokenizer(PreTokenizer pre_tokenizer, BpeMerges merges, TokenTable tokens,
            SpecialTokens specials);

  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSpec(const TokenizerSpec& spec);

  absl::Status AppendText(std::string_view utf8, std::vector<int32_t>* ids) const;

  PreTokenizer pre_tokenizer_;
  BpeMerges merges_;
  TokenTable tokens_;
  SpecialTokens specials_;
};

}  // namespace m1
