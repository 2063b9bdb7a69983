#include "common/text/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/text/unicode_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace m1 {
namespace {

constexpr size_t kMaxPatterns = 8;
// Backtracking steps of one match. A pattern of the M1 kind needs at most a few per byte.
constexpr uint32_t kMinMatchLimit = 10'000'000;
constexpr size_t kMatchStepsPerByte = 16;
constexpr uint32_t kHeapLimitKib = 64 << 10;  // of the interpreter, where there is no JIT
constexpr size_t kJitStackStartBytes = 32 << 10;
constexpr size_t kJitStackBytes = 1 << 20;
// Making a stack costs some 8 us; for short texts the 32 KiB that PCRE2 takes by itself do.
constexpr size_t kMaxBytesWithoutStack = 256;

struct FreePcre2 {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <typename T>
using Pcre2Ptr = std::unique_ptr<T, FreePcre2>;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 128> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// What one thread needs to match.
struct MatchState {
  explicit MatchState(size_t num_bytes)
      : data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        jit_stack(num_bytes > kMaxBytesWithoutStack
                      ? pcre2_jit_stack_create(kJitStackStartBytes, kJitStackBytes, nullptr)
                      : nullptr) {
    const size_t limit = std::clamp<size_t>(num_bytes, kMinMatchLimit / kMatchStepsPerByte,
                                            UINT32_MAX / kMatchStepsPerByte) *
                         kMatchStepsPerByte;
    pcre2_set_match_limit(context.get(), static_cast<uint32_t>(limit));
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    if (jit_stack != nullptr) pcre2_jit_stack_assign(context.get(), nullptr, jit_stack.get());
  }

  Pcre2Ptr<pcre2_match_data> data;
  Pcre2Ptr<pcre2_match_context> context;
  Pcre2Ptr<pcre2_jit_stack> jit_stack;
};

}  // namespace

class PreTokenizer::Pattern {
 public:
  static absl::StatusOr<Pattern> Compile(std::string_view source) {
    M1_ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(source));
    Pcre2Ptr<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    size_t offset = 0;
    Pcre2Ptr<pcre2_code> code(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C,
                      &error, &offset, context.get()));
    if (code == nullptr) {
      return absl::DataLossError(absl::StrCat("pattern does not compile: ", ErrorText(error)));
    }
    uint32_t matches_empty = 0;
    pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty != 0) return absl::DataLossError("pattern can match nothing");
    // Without JIT (refused by some kernels) pcre2_match interprets: slower, same answer.
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    return Pattern(std::move(code));
  }

  absl::Status Split(std::string_view text, const MatchState& state, Sink sink) const {
    const size_t* bounds = pcre2_get_ovector_pointer(state.data.get());
    size_t begin = 0;
    while (begin < text.size()) {
      const int result =
          pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
                      PCRE2_NO_UTF_CHECK, state.data.get(), state.context.get());
      if (result == PCRE2_ERROR_NOMATCH) break;
      if (result < 0) {
        return absl::DataLossError(
            absl::StrCat("pre_tokenizer's pattern at byte ", begin, ": ", ErrorText(result)));
      }
      if (bounds[0] > begin) sink(text.substr(begin, bounds[0] - begin));
      // A match may be empty or begin early only by tricks with lookaround; never loop on it.
      if (bounds[1] <= bounds[0] || bounds[0] < begin) {
        return absl::DataLossError("pre_tokenizer's pattern matched nothing");
      }
      sink(text.substr(bounds[0], bounds[1] - bounds[0]));
      begin = bounds[1];
    }
    if (begin < text.size()) sink(text.substr(begin));
    return absl::OkStatus();
  }

 private:
  explicit Pattern(Pcre2Ptr<pcre2_code> code) : code_(std::move(code)) {}

  Pcre2Ptr<pcre2_code> code_;
};

PreTokenizer::PreTokenizer(std::vector<Pattern> patterns) : patterns_(std::move(patterns)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::vector<std::string>& patterns) {
  if (patterns.size() > kMaxPatterns) {
    return absl::DataLossError(absl::StrCat(patterns.size(), " patterns, at most ", kMaxPatterns));
  }
  std::vector<Pattern> compiled;
  for (const std::string& source : patterns) {
    M1_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(source));
    compiled.push_back(std::move(pattern));
  }
  return PreTokenizer(std::move(compiled));
}

absl::Status PreTokenizer::Split(std::string_view text, Sink sink) const {
  if (text.empty()) return absl::OkStatus();
  if (patterns_.empty()) {
    sink(text);
    return absl::OkStatus();
  }
  const MatchState state(text.size());
  std::vector<std::string_view> pieces = {text};
  for (size_t i = 0; i + 1 < patterns_.size(); ++i) {
    std::vector<std::string_view> finer;
    for (std::string_view piece : pieces) {
      M1_RETURN_IF_ERROR(patterns_[i].Split(
          piece, state, [&finer](std::string_view part) { finer.push_back(part); }));
    }
    pieces = std::move(finer);
  }
  for (std::string_view piece : pieces) {
    M1_RETURN_IF_ERROR(patterns_.back().Split(piece, state, sink));
  }
  return absl::OkStatus();
}

}  // namespace m1
