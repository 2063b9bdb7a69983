// Cuts text into the pieces that byte-pair merges never cross.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

// GPT-2's pattern: what a byte-level pre-tokenizer uses when the file names no other.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Immutable, thread-safe.
class PreTokenizer {
 public:
  using Sink = absl::FunctionRef<void(std::string_view piece)>;

  // Each pattern cuts the pieces that the one before it left: a match is a piece, and so is what
  // lies between two matches. Without patterns all text is one piece. The patterns are Oniguruma's
  // dialect, from a file that nobody vouches for. Errors: DataLoss naming the pattern's fault.
  static absl::StatusOr<PreTokenizer> Create(const std::vector<std::string>& patterns);

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Hands every piece of `text`, which must be UTF-8, to `sink`, in order; none is empty. Errors:
  // DataLoss if a pattern backtracks beyond all measure (linear ones cannot).
  absl::Status Split(std::string_view text, Sink sink) const;

 private:
  class Pattern;

  explicit PreTokenizer(std::vector<Pattern> patterns);

  std::vector<Pattern> patterns_;
};

}  // namespace m1
