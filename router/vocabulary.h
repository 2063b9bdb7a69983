// The model's vocabulary as the router uses it: prompts to ids, ids to text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/model/config.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "router/token_pieces.h"

namespace m1 {

// Immutable, thread-safe.
class Vocabulary final : public TokenPieces {
 public:
  // Reads config.json, generation_config.json and the tokenizer of `model_directory`. Errors:
  // NotFound, DataLoss or InvalidArgument naming the file.
  static absl::StatusOr<std::unique_ptr<Vocabulary>> Load(const std::string& model_directory);
  // `eos_token` ends answers when `config` names no id.
  Vocabulary(ModelConfig config, std::unique_ptr<Tokenizer> tokenizer, absl::string_view eos_token);

  // Errors: InvalidArgument when `text` is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> EncodeText(absl::string_view text) const;
  // With the generation suffix. Errors: InvalidArgument naming the field; FailedPrecondition when
  // the tokenizer lacks a control token of the template.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const Chat& chat) const;
  // Control tokens as their own text.
  std::string Decode(const std::vector<int32_t>& ids) const;

  absl::string_view Bytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override { return tokenizer_->IsSpecial(id); }

  const ModelConfig& config() const { return config_; }
  // Ids that end an answer.
  const std::vector<int32_t>& eos_token_ids() const { return eos_token_ids_; }

 private:
  const ModelConfig config_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<int32_t> eos_token_ids_;
};

}  // namespace m1
