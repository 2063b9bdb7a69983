#include "router/vocabulary.h"

#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::StatusOr<std::unique_ptr<Vocabulary>> Vocabulary::Load(const std::string& model_directory) {
  M1_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_directory));
  M1_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(model_directory));
  if (tokenizer->vocab_size() > config.vocab_size) {
    return absl::DataLossError(absl::StrCat(model_directory, ": the tokenizer has ids up to ",
                                            tokenizer->vocab_size() - 1,
                                            ", vocab_size in config.json is ", config.vocab_size));
  }
  return std::make_unique<Vocabulary>(std::move(config), std::move(tokenizer));
}

Vocabulary::Vocabulary(ModelConfig config, std::unique_ptr<Tokenizer> tokenizer)
    : config_(std::move(config)), tokenizer_(std::move(tokenizer)) {}

absl::StatusOr<std::vector<int32_t>> Vocabulary::EncodeText(absl::string_view text) const {
  return tokenizer_->EncodeText(ToStd(text));
}

absl::StatusOr<std::vector<int32_t>> Vocabulary::EncodeChat(const Chat& chat) const {
  M1_ASSIGN_OR_RETURN(const std::vector<PromptSegment> segments, RenderChat(chat));
  absl::Status error;
  PromptEncoder encoder;
  encoder.encode_text = [this, &error](absl::string_view text) {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeText(text);
    if (ids.ok()) return *std::move(ids);
    error = ids.status();
    return std::vector<int32_t>();
  };
  encoder.special_token_id = [this](absl::string_view text) {
    return tokenizer_->SpecialTokenId(ToStd(text));
  };
  M1_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(segments, encoder));
  M1_RETURN_IF_ERROR(error);
  return ids;
}

std::string Vocabulary::Decode(const std::vector<int32_t>& ids) const {
  return tokenizer_->DecodeText(ids);
}

absl::string_view Vocabulary::Bytes(int32_t id) const {
  const std::string_view bytes = tokenizer_->TokenBytes(id);
  return {bytes.data(), bytes.size()};
}

}  // namespace m1
