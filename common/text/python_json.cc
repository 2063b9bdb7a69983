#include "common/text/python_json.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "common/text/utf8_stream.h"

namespace m1 {
namespace {

using Kind = JsonValue::Kind;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// repr(float): the shortest digits that read back equal, with an exponent below 1e-4 and from 1e16.
std::string PythonFloat(double value) {
  std::array<char, 40> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string printed(buffer.data(), end.ptr);  // [-]d[.ddd]e[+-]dd
  const size_t e = printed.find('e');
  const std::string sign = printed[0] == '-' ? "-" : "";
  std::string digits;
  for (char c : printed.substr(0, e)) {
    if (IsDigit(c)) digits += c;
  }
  const int exponent = std::atoi(printed.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) {
    const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
    return absl::StrFormat("%s%c%se%c%02d", sign, digits[0], fraction, exponent < 0 ? '-' : '+',
                           std::abs(exponent));
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void AppendUtf8(uint32_t c, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)),
        put(0x80 | (c & 0x3F));
  }
}

// Recursive descent; the depth limit bounds the stack. Single use.
class Reader {
 public:
  Reader(absl::string_view text, int max_depth) : text_(text), max_depth_(max_depth) {}

  absl::StatusOr<JsonValue> Read() {
    JsonValue value;
    SkipSpace();
    if (!ReadValue(0, &value)) return Error();
    SkipSpace();
    if (pos_ != text_.size()) {
      Fail("text after the value");
      return Error();
    }
    return value;
  }

 private:
  absl::Status Error() const {
    return absl::InvalidArgumentError(
        absl::StrCat("not valid JSON: ", problem_, " at byte ", pos_));
  }
  bool Fail(absl::string_view problem) {
    problem_ = std::string(problem);
    return false;
  }
  char Peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }
  bool Accept(char c) {
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }
  void SkipSpace() {
    while (Accept(' ') || Accept('\t') || Accept('\n') || Accept('\r')) {
    }
  }

  bool ReadValue(int depth, JsonValue* out) {
    switch (Peek()) {
      case '{':
        return depth < max_depth_ ? ReadObject(depth + 1, out) : FailDepth();
      case '[':
        return depth < max_depth_ ? ReadArray(depth + 1, out) : FailDepth();
      case '"':
        out->kind = Kind::kString;
        return ReadString(&out->text);
      case 't':
        return ReadWord("true", Kind::kBool, out);
      case 'f':
        return ReadWord("false", Kind::kBool, out);
      case 'n':
        return ReadWord("null", Kind::kNull, out);
      default:
        return ReadNumber(out);
    }
  }
  bool FailDepth() { return Fail(absl::StrCat("nested deeper than ", max_depth_)); }

  bool ReadWord(absl::string_view word, Kind kind, JsonValue* out) {
    if (text_.substr(pos_, word.size()) != word) return Fail("unknown word");
    pos_ += word.size();
    out->kind = kind;
    out->text = std::string(word);
    return true;
  }

  bool ReadArray(int depth, JsonValue* out) {
    out->kind = Kind::kArray;
    ++pos_;
    SkipSpace();
    if (Accept(']')) return true;
    while (true) {
      SkipSpace();
      if (!ReadValue(depth, &out->items.emplace_back())) return false;
      SkipSpace();
      if (Accept(']')) return true;
      if (!Accept(',')) return Fail("expected ',' or ']'");
    }
  }

  bool ReadObject(int depth, JsonValue* out) {
    out->kind = Kind::kObject;
    ++pos_;
    SkipSpace();
    if (Accept('}')) return true;
    absl::flat_hash_map<std::string, size_t> index_of;
    while (true) {
      SkipSpace();
      if (Peek() != '"') return Fail("expected a key");
      std::string key;
      if (!ReadString(&key)) return false;
      SkipSpace();
      if (!Accept(':')) return Fail("expected ':'");
      SkipSpace();
      JsonValue value;
      if (!ReadValue(depth, &value)) return false;
      const auto found = index_of.try_emplace(key, out->keys.size());
      if (found.second) {
        out->keys.push_back(std::move(key));
        out->items.push_back(std::move(value));
      } else {
        out->items[found.first->second] = std::move(value);
      }
      SkipSpace();
      if (Accept('}')) return true;
      if (!Accept(',')) return Fail("expected ',' or '}'");
    }
  }

  bool ReadNumber(JsonValue* out) {
    const size_t begin = pos_;
    const bool negative = Accept('-');
    if (!IsDigit(Peek())) return Fail("expected a value");
    if (!Accept('0')) SkipDigits();
    bool is_float = false;
    if (Peek() == '.') {
      is_float = true;
      ++pos_;
      if (!IsDigit(Peek())) return Fail("expected a digit");
      SkipDigits();
    }
    if (Peek() == 'e' || Peek() == 'E') {
      is_float = true;
      ++pos_;
      if (Peek() == '+' || Peek() == '-') ++pos_;
      if (!IsDigit(Peek())) return Fail("expected a digit");
      SkipDigits();
    }
    out->kind = Kind::kNumber;
    const absl::string_view token = text_.substr(begin, pos_ - begin);
    if (!is_float) {
      out->text = negative && token == "-0" ? "0" : std::string(token);
      return true;
    }
    double value = 0;
    if (!absl::SimpleAtod(token, &value) || !std::isfinite(value))
      return Fail("a number out of range");
    out->text = PythonFloat(value);
    return true;
  }
  void SkipDigits() {
    while (IsDigit(Peek())) ++pos_;
  }

  bool ReadString(std::string* out) {
    ++pos_;
    while (pos_ < text_.size()) {
      const char c = text_[pos_];
      if (c == '"') {
        ++pos_;
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20) return Fail("control character in a string");
      ++pos_;
      if (c != '\\') {
        out->push_back(c);
      } else if (!ReadEscape(out)) {
        return false;
      }
    }
    return Fail("unfinished string");
  }

  bool ReadEscape(std::string* out) {
    static constexpr absl::string_view kLetters = "\"\\/bfnrt";
    static constexpr absl::string_view kMeaning = "\"\\/\b\f\n\r\t";
    if (Accept('u')) return ReadUnicodeEscape(out);
    const size_t index = pos_ < text_.size() ? kLetters.find(text_[pos_]) : absl::string_view::npos;
    if (index == absl::string_view::npos) return Fail("unknown escape");
    ++pos_;
    out->push_back(kMeaning[index]);
    return true;
  }

  bool ReadUnicodeEscape(std::string* out) {
    std::optional<uint32_t> code = ReadHex4();
    if (!code) return Fail("expected four hexadecimal digits");
    if (*code >= 0xDC00 && *code < 0xE000) return Fail("lone surrogate");
    if (*code >= 0xD800 && *code < 0xDC00) {
      if (!Accept('\\') || !Accept('u')) return Fail("lone surrogate");
      const std::optional<uint32_t> low = ReadHex4();
      if (!low || *low < 0xDC00 || *low >= 0xE000) return Fail("lone surrogate");
      code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
    }
    AppendUtf8(*code, out);
    return true;
  }

  std::optional<uint32_t> ReadHex4() {
    uint32_t code = 0;
    if (text_.size() - pos_ < 4) return std::nullopt;
    const char* begin = text_.data() + pos_;
    const auto result = std::from_chars(begin, begin + 4, code, 16);
    if (result.ec != std::errc() || result.ptr != begin + 4) return std::nullopt;
    pos_ += 4;
    return code;
  }

  const absl::string_view text_;
  const int max_depth_;
  size_t pos_ = 0;
  std::string problem_;
};

void AppendString(absl::string_view text, std::string* out) {
  static constexpr absl::string_view kSpecial = "\"\\\n\r\t\b\f";
  static constexpr absl::string_view kLetters = "\"\\nrtbf";
  out->push_back('"');
  for (char c : text) {
    const size_t index = kSpecial.find(c);
    if (index != absl::string_view::npos) {
      out->push_back('\\');
      out->push_back(kLetters[index]);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppend(out, absl::StrFormat("\\u%04x", static_cast<unsigned>(c)));
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

void AppendValue(const JsonValue& value, std::string* out) {
  switch (value.kind) {
    case Kind::kNull:
      out->append("null");
      return;
    case Kind::kBool:
    case Kind::kNumber:
      out->append(value.text);
      return;
    case Kind::kString:
      AppendString(value.text, out);
      return;
    case Kind::kArray:
    case Kind::kObject:
      break;
  }
  const bool is_object = value.kind == Kind::kObject;
  out->push_back(is_object ? '{' : '[');
  for (size_t i = 0; i < value.items.size(); ++i) {
    if (i > 0) out->append(", ");
    if (is_object) {
      AppendString(value.keys[i], out);
      out->append(": ");
    }
    AppendValue(value.items[i], out);
  }
  out->push_back(is_object ? '}' : ']');
}

}  // namespace

const JsonValue* JsonValue::Find(absl::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
}

absl::StatusOr<JsonValue> ParseJson(absl::string_view text, int max_depth) {
  if (!IsValidUtf8(text))
    return absl::InvalidArgumentError("not valid JSON: the text is not UTF-8");
  return Reader(text, max_depth).Read();
}

std::string PrintPythonJson(const JsonValue& value) {
  std::string out;
  AppendValue(value, &out);
  return out;
}

std::string PythonJsonString(absl::string_view text) {
  std::string out;
  AppendString(text, &out);
  return out;
}

absl::StatusOr<std::string> CanonicalJsonObject(absl::string_view text, int max_depth) {
  absl::StatusOr<JsonValue> value = ParseJson(text, max_depth);
  if (!value.ok()) return value.status();
  if (value->kind != Kind::kObject) return absl::InvalidArgumentError("not a JSON object");
  return PrintPythonJson(*value);
}

}  // namespace m1
