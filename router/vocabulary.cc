#include "router/vocabulary.h"

#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/input_file.h"
#include "common/text/python_json.h"

namespace m1 {
namespace {

// What the chat template ends a message with.
constexpr char kDefaultEosToken[] = "<end_of_sentence>";

constexpr char kTokenizerConfig[] = "tokenizer_config.json";
// The real model's has a few kilobytes; those with a chat template and many control tokens, some
// hundreds.
constexpr int64_t kMaxTokenizerConfigBytes = 16 << 20;

std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

// `eos_token` of tokenizer_config.json: a string, or an object with its content. The real model's
// config.json names no id.
absl::StatusOr<std::string> ReadEosToken(const std::string& model_directory) {
  const absl::StatusOr<std::string> text =
      ReadInputFile(model_directory, kTokenizerConfig, kMaxTokenizerConfigBytes);
  if (absl::IsNotFound(text.status())) return std::string(kDefaultEosToken);
  M1_RETURN_IF_ERROR(text.status());
  const absl::StatusOr<JsonValue> config = ParseJson(*text);
  if (!config.ok()) {
    return absl::DataLossError(
        absl::StrCat(model_directory, "/", kTokenizerConfig, ": ", config.status().message()));
  }
  const JsonValue* token = config->Find("eos_token");
  if (token != nullptr && token->kind == JsonValue::Kind::kObject) token = token->Find("content");
  if (token == nullptr || token->kind != JsonValue::Kind::kString)
    return std::string(kDefaultEosToken);
  return token->text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vocabulary>> Vocabulary::Load(const std::string& model_directory) {
  M1_ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_directory));
  M1_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(model_directory));
  if (tokenizer->vocab_size() > config.vocab_size) {
    return absl::DataLossError(absl::StrCat(model_directory, ": the tokenizer has ids up to ",
                                            tokenizer->vocab_size() - 1,
                                            ", vocab_size in config.json is ", config.vocab_size));
  }
  M1_ASSIGN_OR_RETURN(const std::string eos_token, ReadEosToken(model_directory));
  return std::make_unique<Vocabulary>(std::move(config), std::move(tokenizer), eos_token);
}

Vocabulary::Vocabulary(ModelConfig config, std::unique_ptr<Tokenizer> tokenizer,
                       absl::string_view eos_token)
    : config_(std::move(config)),
      tokenizer_(std::move(tokenizer)),
      eos_token_ids_(config_.eos_token_ids) {
  if (!eos_token_ids_.empty()) return;
  if (const std::optional<int32_t> id = tokenizer_->SpecialTokenId(ToStd(eos_token))) {
    eos_token_ids_.push_back(*id);
  }
}

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
