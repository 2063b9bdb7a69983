#include "common/text/tokenizer_json_settings.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/text/pretokenizer.h"

namespace m1 {
namespace {

using Json = nlohmann::json;

// The value of `key`, null if `object` is none or lacks it.
const Json& Get(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

// `value` as JSON in ASCII, cut to what a message can carry.
std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  return text;
}

absl::Status Unsupported(const std::string& name, const Json& value) {
  return absl::DataLossError(absl::StrCat(name, " ", Shown(value), " is not supported"));
}

absl::Status Malformed(const std::string& name, const Json& value, const char* wanted) {
  return absl::DataLossError(absl::StrCat(name, " is ", Shown(value), ", must be ", wanted));
}

bool HasType(const Json& object, std::string_view type) {
  const Json& value = Get(object, "type");
  return value.is_string() && value.get_ref<const std::string&>() == type;
}

// A boolean that may be absent.
absl::StatusOr<bool> ReadBool(const Json& object, const std::string& name, const char* key,
                              bool absent) {
  const Json& value = Get(object, key);
  if (value.is_null()) return absent;
  if (!value.is_boolean()) return Malformed(absl::StrCat(name, ".", key), value, "true or false");
  return value.get<bool>();
}

// Only the one value of a boolean that this tokenizer implements.
absl::Status RequireBool(const Json& object, const std::string& name, const char* key,
                         bool wanted) {
  M1_ASSIGN_OR_RETURN(const bool value, ReadBool(object, name, key, wanted));
  if (value != wanted) return Unsupported(absl::StrCat(name, ".", key), Get(object, key));
  return absl::OkStatus();
}

// A pattern that matches exactly `text`.
std::string LiteralPattern(const std::string& text) {
  std::string pattern;
  for (char c : text) {
    if (absl::ascii_ispunct(static_cast<unsigned char>(c))) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

absl::Status ReadSplit(const Json& step, const std::string& name, TokenizerSpec* spec) {
  const Json& behavior = Get(step, "behavior");
  if (!behavior.is_string() || behavior.get_ref<const std::string&>() != "Isolated") {
    return Unsupported(name + ".behavior", behavior);
  }
  M1_RETURN_IF_ERROR(RequireBool(step, name, "invert", false));
  const Json& pattern = Get(step, "pattern");
  const Json& regex = Get(pattern, "Regex");
  const Json& literal = Get(pattern, "String");
  if (regex.is_string()) {
    spec->patterns.push_back(regex.get<std::string>());
  } else if (literal.is_string()) {
    spec->patterns.push_back(LiteralPattern(literal.get<std::string>()));
  } else {
    return Malformed(name + ".pattern", pattern, "{\"Regex\": string} or {\"String\": string}");
  }
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const Json& step, const std::string& name, TokenizerSpec* spec) {
  M1_RETURN_IF_ERROR(RequireBool(step, name, "add_prefix_space", false));
  M1_ASSIGN_OR_RETURN(const bool use_regex, ReadBool(step, name, "use_regex", true));
  if (use_regex) spec->patterns.emplace_back(kGpt2Pattern);
  return absl::OkStatus();
}

// ByteLevel, or a Sequence of Split that ends in ByteLevel.
absl::Status ReadPreTokenizer(const Json& pre_tokenizer, TokenizerSpec* spec) {
  const std::string name = "pre_tokenizer";
  if (HasType(pre_tokenizer, "ByteLevel")) return ReadByteLevel(pre_tokenizer, name, spec);
  if (!HasType(pre_tokenizer, "Sequence")) return Unsupported(name, pre_tokenizer);
  const Json& steps = Get(pre_tokenizer, "pretokenizers");
  if (!steps.is_array() || steps.empty()) {
    return Malformed(name + ".pretokenizers", steps, "a list");
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string step_name = absl::StrCat(name, ".pretokenizers[", i, "]");
    const bool is_last = i + 1 == steps.size();
    if (is_last && HasType(steps[i], "ByteLevel")) {
      M1_RETURN_IF_ERROR(ReadByteLevel(steps[i], step_name, spec));
    } else if (!is_last && HasType(steps[i], "Split")) {
      M1_RETURN_IF_ERROR(ReadSplit(steps[i], step_name, spec));
    } else {
      return Unsupported(step_name, steps[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& model, TokenizerSpec* spec) {
  if (!model.is_object()) return Malformed("model", model, "an object");
  const Json& type = Get(model, "type");  // absent in old files
  if (!type.is_null() && !HasType(model, "BPE")) return Unsupported("model.type", type);
  const Json& dropout = Get(model, "dropout");
  if (!dropout.is_null() && dropout != 0.0) return Unsupported("model.dropout", dropout);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = Get(model, key);
    const bool is_empty = affix.is_string() && affix.get_ref<const std::string&>().empty();
    if (!affix.is_null() && !is_empty) return Unsupported(absl::StrCat("model.", key), affix);
  }
  M1_ASSIGN_OR_RETURN(spec->ignore_merges, ReadBool(model, "model", "ignore_merges", false));
  return absl::OkStatus();
}

absl::StatusOr<SpecialToken> ReadAddedToken(const Json& entry, const std::string& name,
                                            const Json& id) {
  const Json& content = Get(entry, "content");
  if (!content.is_string()) return Malformed(name + ".content", content, "a string");
  if (!id.is_number_integer()) return Malformed(name + ".id", id, "an integer");
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    M1_RETURN_IF_ERROR(RequireBool(entry, name, key, false));
  }
  SpecialToken token{.text = content.get<std::string>()};
  const auto wide_id = id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX
                           ? int64_t{INT32_MAX}
                           : id.get<int64_t>();
  if (wide_id < 0 || wide_id >= INT32_MAX) {
    return Malformed(name + ".id", id, "an id of the vocabulary");
  }
  token.id = static_cast<int32_t>(wide_id);
  M1_ASSIGN_OR_RETURN(token.is_control, ReadBool(entry, name, "special", false));
  return token;
}

}  // namespace

absl::Status ReadTokenizerSettings(const Json& tokenizer, TokenizerSpec* spec) {
  if (!tokenizer.is_object()) return absl::DataLossError("the file is no JSON object");
  M1_RETURN_IF_ERROR(ReadModel(Get(tokenizer, "model"), spec));
  const Json& normalizer = Get(tokenizer, "normalizer");
  const Json& normalizers = Get(normalizer, "normalizers");
  const bool no_normalizer =
      normalizer.is_null() ||
      (HasType(normalizer, "Sequence") && normalizers.is_array() && normalizers.empty());
  if (!no_normalizer) return Unsupported("normalizer", normalizer);
  M1_RETURN_IF_ERROR(ReadPreTokenizer(Get(tokenizer, "pre_tokenizer"), spec));
  const Json& decoder = Get(tokenizer, "decoder");
  if (!HasType(decoder, "ByteLevel")) return Unsupported("decoder", decoder);
  const Json& added = Get(tokenizer, "added_tokens");
  if (!added.is_null() && !added.is_array()) return Malformed("added_tokens", added, "a list");
  for (size_t i = 0; i < added.size(); ++i) {
    M1_ASSIGN_OR_RETURN(
        SpecialToken token,
        ReadAddedToken(added[i], absl::StrCat("added_tokens[", i, "]"), Get(added[i], "id")));
    spec->specials.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SpecialToken>> ReadConfigSpecials(const Json& config,
                                                             const std::vector<VocabEntry>& vocab) {
  if (!config.is_object()) return absl::DataLossError("the file is no JSON object");
  std::vector<SpecialToken> specials;
  const Json& added = Get(config, "added_tokens_decoder");
  if (!added.is_null() && !added.is_object()) {
    return Malformed("added_tokens_decoder", added, "an object");
  }
  for (const auto& [key, entry] : added.items()) {
    const std::string name = absl::StrCat("added_tokens_decoder['", key.substr(0, 20), "']");
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) return Malformed(name, key, "named by an id");
    M1_ASSIGN_OR_RETURN(SpecialToken token, ReadAddedToken(entry, name, Json(id)));
    specials.push_back(std::move(token));
  }
  // As transformers does: a token with a role is special.
  std::vector<std::string> role_tokens;
  const auto add_role_token = [&role_tokens](const Json& value) {
    const Json& content = value.is_object() ? Get(value, "content") : value;
    if (content.is_string()) role_tokens.push_back(content.get<std::string>());
  };
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    add_role_token(Get(config, key));
  }
  const Json& others = Get(config, "additional_special_tokens");
  if (others.is_array()) {
    for (const Json& value : others) add_role_token(value);
  }
  absl::flat_hash_map<std::string, int64_t> ids;
  for (const VocabEntry& entry : vocab) ids.emplace(entry.spelling, entry.id);
  for (const SpecialToken& token : specials) ids.erase(token.text);
  for (const std::string& text : role_tokens) {
    const auto it = ids.find(text);
    if (it == ids.end() || it->second < 0 || it->second >= INT32_MAX) continue;
    specials.push_back({.text = text, .id = static_cast<int32_t>(it->second)});
    ids.erase(it);
  }
  return specials;
}

}  // namespace m1
