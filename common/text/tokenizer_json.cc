// Reads tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.
//
// The vocabulary and the merges are 99 % of the file: they go straight into vectors while the
// parser runs, and only the small rest becomes a tree, of bounded size and depth.
#include <cstddef>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "common/base/status_macros.h"
#include "common/text/tokenizer_json_settings.h"
#include "common/text/tokenizer_spec.h"

namespace m1 {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFileBytes = 128 << 20;
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxTreeValues = 1 << 20;
constexpr size_t kMaxEntries = 4 << 20;

std::string Quoted(std::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(std::string(text.substr(0, 40))), "'");
}

// Which object is a vocabulary and which array holds merges.
enum class Layout { kTokenizerJson, kVocabJson, kTree };

class TokenizerSax : public nlohmann::json_sax<Json> {
 public:
  explicit TokenizerSax(Layout layout) : layout_(layout) {}

  Json tree;
  std::vector<VocabEntry> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  std::string error;  // why a callback returned false

  bool null() override { return Scalar(nullptr); }
  bool boolean(bool value) override { return Scalar(value); }
  bool number_integer(number_integer_t value) override {
    return part_ == Part::kVocab ? AddVocab(value) : Scalar(value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (part_ != Part::kVocab) return Scalar(value);
    return AddVocab(value > INT64_MAX ? INT64_MAX : static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return Scalar(value); }
  bool string(string_t& value) override {
    if (part_ == Part::kMerges) return AddMerge(value);
    if (part_ == Part::kMergePair) {
      pair_.push_back(std::move(value));
      return pair_.size() <= 2 || Fail(absl::StrCat(MergeName(), " has more than two parts"));
    }
    return Scalar(std::move(value));
  }
  bool binary(binary_t&) override { return Fail("binary value"); }

  bool start_object(size_t) override {
    if (part_ != Part::kTree) return Scalar(nullptr);
    const bool is_vocab = layout_ == Layout::kVocabJson ? open_.empty() : IsModelKey("vocab");
    if (!is_vocab) return Open(Json::object());
    if (vocab_seen_) return Fail("model.vocab comes twice");
    vocab_seen_ = true;
    part_ = Part::kVocab;
    return true;
  }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool end_object() override { return part_ == Part::kVocab ? Leave() : Close(); }

  bool start_array(size_t) override {
    if (part_ == Part::kMerges) {
      part_ = Part::kMergePair;
      pair_.clear();
      return true;
    }
    if (part_ != Part::kTree) return Scalar(nullptr);
    if (!IsModelKey("merges")) return Open(Json::array());
    if (merges_seen_) return Fail("model.merges comes twice");
    merges_seen_ = true;
    part_ = Part::kMerges;
    return true;
  }
  bool end_array() override {
    if (part_ == Part::kMerges) return Leave();
    if (part_ != Part::kMergePair) return Close();
    part_ = Part::kMerges;
    if (pair_.size() != 2) return Fail(absl::StrCat(MergeName(), " has less than two parts"));
    return PushMerge(std::move(pair_[0]), std::move(pair_[1]));
  }

  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception&) override {
    error = absl::StrCat("not JSON at byte ", position, ", near ", Quoted(last_token));
    return false;
  }

  absl::Status Parse(std::string_view text) {
    if (text.size() > kMaxFileBytes) {
      return absl::DataLossError(
          absl::StrCat("file of ", text.size(), " bytes, at most ", kMaxFileBytes));
    }
    bool complete = false;
    try {
      complete = Json::sax_parse(text.begin(), text.end(), this);
    } catch (const nlohmann::detail::exception& e) {
      error = e.what();
    }
    if (!complete) return absl::DataLossError(error);
    return absl::OkStatus();
  }

  bool vocab_seen() const { return vocab_seen_; }
  bool merges_seen() const { return merges_seen_; }

 private:
  enum class Part { kTree, kVocab, kMerges, kMergePair };

  bool Fail(std::string why) {
    error = std::move(why);
    return false;
  }

  bool IsModelKey(std::string_view wanted) const {
    return layout_ == Layout::kTokenizerJson && open_.size() == 2 && open_names_[1] == "model" &&
           open_[1]->is_object() && key_ == wanted;
  }

  std::string MergeName() const { return absl::StrCat("model.merges[", merges.size(), "]"); }

  bool Leave() {
    part_ = Part::kTree;
    return true;
  }

  bool AddVocab(int64_t id) {
    if (vocab.size() == kMaxEntries) {
      return Fail(absl::StrCat("vocab has more than ", kMaxEntries, " entries"));
    }
    vocab.push_back({std::move(key_), id});
    return true;
  }

  bool AddMerge(const std::string& text) {
    const size_t blank = text.find(' ');
    if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos) {
      return Fail(absl::StrCat(MergeName(), " ", Quoted(text), " is not two tokens"));
    }
    return PushMerge(text.substr(0, blank), text.substr(blank + 1));
  }

  bool PushMerge(std::string left, std::string right) {
    if (merges.size() == kMaxEntries) {
      return Fail(absl::StrCat("merges has more than ", kMaxEntries, " entries"));
    }
    merges.emplace_back(std::move(left), std::move(right));
    return true;
  }

  // A value of the tree, or one where the vocabulary and the merges cannot have it.
  bool Scalar(Json value) {
    switch (part_) {
      case Part::kVocab:
        return Fail(absl::StrCat("id of token ", Quoted(key_), " is not an integer"));
      case Part::kMerges:
      case Part::kMergePair:
        return Fail(absl::StrCat(MergeName(), " is neither a string nor two"));
      case Part::kTree:
        break;
    }
    return Insert(std::move(value)) != nullptr;
  }

  // Null after Fail.
  Json* Insert(Json value) {
    if (++num_values_ > kMaxTreeValues) {
      Fail(absl::StrCat("more than ", kMaxTreeValues, " values beside vocab and merges"));
      return nullptr;
    }
    if (open_.empty()) {
      tree = std::move(value);
      return &tree;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    Json& place = (*open_.back())[key_];
    place = std::move(value);
    return &place;
  }

  bool Open(Json value) {
    if (open_.size() == kMaxDepth) return Fail(absl::StrCat("more than ", kMaxDepth, " levels"));
    const std::string name = open_.empty() || open_.back()->is_array() ? "" : key_;
    Json* place = Insert(std::move(value));
    if (place == nullptr) return false;
    open_.push_back(place);
    open_names_.push_back(name);
    return true;
  }

  bool Close() {
    open_.pop_back();
    open_names_.pop_back();
    return true;
  }

  const Layout layout_;
  Part part_ = Part::kTree;
  std::vector<Json*> open_;  // the containers around the next value
  std::vector<std::string> open_names_;
  std::string key_;
  std::vector<std::string> pair_;
  size_t num_values_ = 0;
  bool vocab_seen_ = false;
  bool merges_seen_ = false;
};

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view tokenizer_json) {
  TokenizerSax sax(Layout::kTokenizerJson);
  M1_RETURN_IF_ERROR(sax.Parse(tokenizer_json));
  TokenizerSpec spec;
  M1_RETURN_IF_ERROR(ReadTokenizerSettings(sax.tree, &spec));
  if (!sax.vocab_seen()) return absl::DataLossError("model.vocab is missing or no object");
  if (!sax.merges_seen()) return absl::DataLossError("model.merges is missing or no array");
  spec.vocab = std::move(sax.vocab);
  spec.merges = std::move(sax.merges);
  return spec;
}

absl::StatusOr<std::vector<VocabEntry>> ParseVocabJson(std::string_view vocab_json) {
  TokenizerSax sax(Layout::kVocabJson);
  M1_RETURN_IF_ERROR(sax.Parse(vocab_json));
  if (!sax.vocab_seen()) return absl::DataLossError("the vocabulary is no object");
  return std::move(sax.vocab);
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseMergesText(
    std::string_view merges_txt) {
  if (merges_txt.size() > kMaxFileBytes) {
    return absl::DataLossError(
        absl::StrCat("file of ", merges_txt.size(), " bytes, at most ", kMaxFileBytes));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  for (size_t line_number = 1; !merges_txt.empty(); ++line_number) {
    const size_t end = merges_txt.find('\n');
    std::string_view line = merges_txt.substr(0, end);
    merges_txt.remove_prefix(end == std::string_view::npos ? merges_txt.size() : end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    const size_t blank = line.find(' ');
    if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos) {
      return absl::DataLossError(
          absl::StrCat("line ", line_number, " ", Quoted(line), " is not two tokens"));
    }
    if (merges.size() == kMaxEntries) {
      return absl::DataLossError(absl::StrCat("more than ", kMaxEntries, " merges"));
    }
    merges.emplace_back(line.substr(0, blank), line.substr(blank + 1));
  }
  return merges;
}

absl::StatusOr<std::vector<SpecialToken>> ParseTokenizerConfig(
    std::string_view tokenizer_config_json, const std::vector<VocabEntry>& vocab) {
  TokenizerSax sax(Layout::kTree);
  M1_RETURN_IF_ERROR(sax.Parse(tokenizer_config_json));
  return ReadConfigSpecials(sax.tree, vocab);
}

}  // namespace m1
