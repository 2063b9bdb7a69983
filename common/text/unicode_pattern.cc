#include "common/text/unicode_pattern.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "common/base/status_macros.h"
#include "common/text/unicode_additions.h"

namespace m1 {
namespace {

// General categories that unicode_additions.h completes; a single letter covers all that begin so.
constexpr std::array<std::string_view, 24> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "N", "Nd", "Nl", "No", "P",
    "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So"};

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr size_t kMaxTranslatedBytes = 1 << 20;

void AppendRange(uint32_t first, uint32_t last, std::string* out) {
  absl::StrAppendFormat(out, "\\x{%x}", first);
  if (last != first) absl::StrAppendFormat(out, "-\\x{%x}", last);
}

// The members of \p{category}, to stand inside a class.
std::string CategoryMembers(std::string_view category) {
  std::string out = absl::StrCat("\\p{", std::string(category), "}");
  for (const CategoryRange& range : kUnicodeAdditions) {
    if (std::string_view(range.category).substr(0, category.size()) == category) {
      AppendRange(range.first, range.last, &out);
    }
  }
  return out;
}

std::string SpaceMembers() {
  std::string out;
  for (const CodePointRange& range : kUnicodeSpace) AppendRange(range.first, range.last, &out);
  return out;
}

std::string NonSpaceMembers() {
  std::string out;
  uint32_t next = 0;
  for (const CodePointRange& range : kUnicodeSpace) {
    AppendRange(next, range.first - 1, &out);
    next = range.last + 1;
  }
  AppendRange(next, 0x10ffff, &out);
  return out;
}

class PatternTranslator {
 public:
  explicit PatternTranslator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < pattern_.size()) {
      M1_RETURN_IF_ERROR(Next());
      if (out_.size() > kMaxTranslatedBytes) return Unsupported("more classes than fit");
    }
    if (!caseless_.empty()) return Unsupported("a group without ')'");
    return std::move(out_);
  }

 private:
  // A class escape: what it stands for inside brackets, and whether it is the complement of that.
  struct Escape {
    std::string members;
    bool negated = false;
    bool is_class = false;
  };

  absl::Status Unsupported(std::string_view what) const {
    return absl::DataLossError(
        absl::StrCat("pattern at byte ", pos_, ": ", std::string(what), " is not supported"));
  }

  char Peek(size_t ahead = 0) const {
    return pos_ + ahead < pattern_.size() ? pattern_[pos_ + ahead] : '\0';
  }
  bool StartsWith(std::string_view text) const {
    return pattern_.substr(pos_, text.size()) == text;
  }
  bool Caseless() const { return !caseless_.empty() && caseless_.back(); }

  absl::Status Next() {
    const char c = Peek();
    switch (c) {
      case '\\': {
        M1_ASSIGN_OR_RETURN(const Escape escape, ReadEscape());
        if (escape.is_class) {
          absl::StrAppend(&out_, escape.negated ? "[^" : "[", escape.members, "]");
        } else {
          out_ += escape.members;
        }
        return absl::OkStatus();
      }
      case '[':
        return TranslateClass();
      case '(':
        return OpenGroup();
      case ')':
        if (caseless_.empty()) return Unsupported("')' without a group");
        caseless_.pop_back();
        break;
      case '?':
      case '*':
      case '+':
      case '{':
        return TranslateQuantifier();
      case '^':
      case '$':
      case ']':
      case '}':
      case '\0':
        return Unsupported(absl::StrCat("'", absl::CEscape(std::string(1, c)), "'"));
      default:
        break;
    }
    out_.push_back(c);
    ++pos_;
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    static constexpr std::array<std::string_view, 7> kOpenings = {"(?:",  "(?i:", "(?=", "(?!",
                                                                  "(?<=", "(?<!", "(?>"};
    bool caseless = Caseless();
    std::string_view opening = "(";
    if (Peek(1) == '?' || Peek(1) == '*') {
      opening = "";
      for (std::string_view candidate : kOpenings) {
        if (StartsWith(candidate)) opening = candidate;
      }
      if (opening.empty()) return Unsupported("this kind of group");
      caseless = caseless || opening == "(?i:";
    }
    caseless_.push_back(caseless);
    out_ += opening;
    pos_ += opening.size();
    return absl::OkStatus();
  }

  absl::Status TranslateQuantifier() {
    const size_t begin = pos_;
    bool braces = false;
    if (Peek() == '{') {
      braces = true;
      const size_t end = pattern_.find('}', pos_);
      if (end == std::string_view::npos) return Unsupported("'{' without '}'");
      const std::string_view counts = pattern_.substr(pos_ + 1, end - pos_ - 1);
      size_t num_commas = 0;
      for (char c : counts) {
        if (c == ',') ++num_commas;
        if (c != ',' && !absl::ascii_isdigit(static_cast<unsigned char>(c))) {
          return Unsupported("a repeat count that is no number");
        }
      }
      if (counts.empty() || counts[0] == ',' || num_commas > 1) {
        return Unsupported("this form of repeat count");
      }
      pos_ = end + 1;
      if (num_commas == 0 && Peek() == '?') return Unsupported("'?' after {n}");
    } else {
      ++pos_;
    }
    if (Peek() == '?' || (Peek() == '+' && !braces)) ++pos_;
    if (Peek() == '?' || Peek() == '*' || Peek() == '+' || Peek() == '{') {
      return Unsupported("a repeat of a repeat");
    }
    out_ += pattern_.substr(begin, pos_ - begin);
    return absl::OkStatus();
  }

  absl::Status TranslateClass() {
    ++pos_;
    out_ += '[';
    if (Peek() == '^') {
      out_ += '^';
      ++pos_;
    }
    bool empty = true;
    bool after_class = false;  // the last item was a class escape, so '-' cannot start a range
    bool after_dash = false;
    while (Peek() != ']' || empty) {
      const char c = Peek();
      if (c == '\0' || c == ']') return Unsupported("an empty or unfinished class");
      if (c == '[') return Unsupported("'[' inside a class");
      if (StartsWith("&&")) return Unsupported("'&&' inside a class");
      const bool is_dash = c == '-' && !empty;
      if (is_dash && after_class && Peek(1) != ']') {
        return Unsupported("a range that begins with a class");
      }
      after_class = false;
      if (c == '\\') {
        M1_ASSIGN_OR_RETURN(const Escape escape, ReadEscape());
        if (escape.negated) return Unsupported("a negated property inside a class");
        if (escape.is_class && after_dash) return Unsupported("a range that ends with a class");
        after_class = escape.is_class;
        out_ += escape.members;
      } else {
        out_.push_back(c);
        ++pos_;
      }
      after_dash = is_dash;
      empty = false;
    }
    out_ += ']';
    ++pos_;
    return absl::OkStatus();
  }

  absl::StatusOr<Escape> ReadEscape() {
    const char c = Peek(1);
    if (c == 'p' || c == 'P') return ReadProperty();
    if (c == 'x' || c == 'u') return ReadHex();
    Escape escape;
    switch (c) {
      case 's':
        escape = {.members = SpaceMembers(), .is_class = true};
        break;
      case 'S':
        escape = {.members = NonSpaceMembers(), .is_class = true};
        break;
      case 'd':
        escape = {.members = CategoryMembers("Nd"), .is_class = true};
        break;
      case 'r':
      case 'n':
      case 't':
      case 'f':
        escape.members = {'\\', c};
        break;
      default:
        if (!absl::ascii_ispunct(static_cast<unsigned char>(c))) {
          return Unsupported(absl::StrCat("escape '\\", absl::CEscape(std::string(1, c)), "'"));
        }
        escape.members = {'\\', c};
    }
    pos_ += 2;
    return escape;
  }

  absl::StatusOr<Escape> ReadProperty() {
    if (Caseless()) return Unsupported("a property where case is ignored");
    const size_t end = pattern_.find('}', pos_);
    if (Peek(2) != '{' || end == std::string_view::npos) return Unsupported("this property");
    const std::string_view name = pattern_.substr(pos_ + 3, end - pos_ - 3);
    for (std::string_view category : kCategories) {
      if (name != category) continue;
      Escape escape{.members = CategoryMembers(name), .negated = Peek(1) == 'P', .is_class = true};
      pos_ = end + 1;
      return escape;
    }
    return Unsupported(
        absl::StrCat("property '", absl::CEscape(std::string(name.substr(0, 40))), "'"));
  }

  // \xHH, \x{H...} and \uHHHH.
  absl::StatusOr<Escape> ReadHex() {
    size_t first = pos_ + 2;
    size_t num_digits = Peek(1) == 'x' ? 2 : 4;
    size_t end = first + num_digits;
    if (Peek(1) == 'x' && Peek(2) == '{') {
      const size_t close = pattern_.find('}', pos_);
      if (close == std::string_view::npos) return Unsupported("'\\x{' without '}'");
      ++first;
      num_digits = close - first;
      end = close + 1;
    }
    if (num_digits == 0 || num_digits > 6 || first + num_digits > pattern_.size()) {
      return Unsupported("this hexadecimal escape");
    }
    const std::string_view digits = pattern_.substr(first, num_digits);
    for (char c : digits) {
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) {
        return Unsupported("this hexadecimal escape");
      }
    }
    pos_ = end;
    return Escape{.members = absl::StrCat("\\x{", std::string(digits), "}")};
  }

  const std::string_view pattern_;
  size_t pos_ = 0;
  std::string out_;
  std::vector<bool> caseless_;  // of each open group
};

}  // namespace

absl::StatusOr<std::string> TranslatePattern(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::DataLossError(
        absl::StrCat("pattern of ", pattern.size(), " bytes, at most ", kMaxPatternBytes));
  }
  return PatternTranslator(pattern).Run();
}

}  // namespace m1
