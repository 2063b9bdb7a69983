#include "common/model/strict_json.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

constexpr size_t kMaxQuotedBytes = 64;

// Builds the document from the events of nlohmann's parser, and stops at the first violation.
class DocumentBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit DocumentBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(nlohmann::json::object()); }
  bool start_array(std::size_t) override { return Open(nlohmann::json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& key) override {
    if (++num_values_ > limits_.max_values) return TooManyValues();
    auto [it, inserted] = open_.back()->emplace(key, nullptr);
    if (!inserted) return Fail(absl::StrCat("key ", QuoteForMessage(key), " stands twice"));
    slot_ = &it.value();
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }

  absl::StatusOr<nlohmann::json> Finish(bool parsed) && {
    if (!parsed) return absl::InvalidArgumentError(error_.empty() ? "not valid JSON" : error_);
    if (!root_.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the document is ", JsonForMessage(root_), ", wanted an object"));
    }
    return std::move(root_);
  }

 private:
  // Puts a value where the parser stands: the root, an array's end, or the key just read.
  nlohmann::json* Add(nlohmann::json value) {
    if (++num_values_ > limits_.max_values) {
      TooManyValues();
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool Open(nlohmann::json container) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      return Fail(absl::StrCat("nested deeper than ", limits_.max_depth, " levels"));
    }
    nlohmann::json* added = Add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool TooManyValues() { return Fail(absl::StrCat("more than ", limits_.max_values, " values")); }

  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  const JsonLimits limits_;
  nlohmann::json root_;
  // Containers from the root down. Their addresses hold: a container grows only while it is last.
  std::vector<nlohmann::json*> open_;
  nlohmann::json* slot_ = nullptr;  // the value of the key just read
  int64_t num_values_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, const JsonLimits& limits) {
  DocumentBuilder builder(limits);
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).Finish(parsed);
}

std::string QuoteForMessage(absl::string_view text) {
  const bool cut = text.size() > kMaxQuotedBytes;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMaxQuotedBytes)), cut ? "…" : "",
                      "\"");
}

std::string JsonForMessage(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::object:
      return "an object";
    case nlohmann::json::value_t::array:
      return absl::StrCat("an array of ", value.size());
    case nlohmann::json::value_t::string:
      return QuoteForMessage(value.get_ref<const std::string&>());
    default:
      return value.dump();
  }
}

}  // namespace m1
