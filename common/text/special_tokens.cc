#include "common/text/special_tokens.h"

#include <algorithm>
#include <utility>

namespace m1 {

SpecialTokens::SpecialTokens(std::vector<SpecialToken> tokens)
    : tokens_(std::move(tokens)), begins_token_(256, false) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  for (const SpecialToken& token : tokens_) {
    begins_token_[static_cast<unsigned char>(token.text[0])] = true;
    if (token.is_control) control_ids_.insert(token.id);
  }
}

std::optional<int32_t> SpecialTokens::Find(std::string_view text) const {
  const auto it = std::lower_bound(
      tokens_.begin(), tokens_.end(), text,
      [](const SpecialToken& token, std::string_view wanted) { return token.text < wanted; });
  if (it == tokens_.end() || it->text != text) return std::nullopt;
  return it->id;
}

std::optional<SpecialTokens::Match> SpecialTokens::FindNext(std::string_view text,
                                                            size_t begin) const {
  for (; begin < text.size(); ++begin) {
    if (!begins_token_[static_cast<unsigned char>(text[begin])]) continue;
    // [low, high): the tokens that agree with the text so far, which are neighbours; one that ends
    // here comes first.
    auto low = tokens_.begin();
    auto high = tokens_.end();
    std::optional<Match> longest;
    for (size_t length = 0;; ++length) {
      if (low->text.size() == length) {
        longest = Match{begin, length, low->id};
        if (++low == high) break;
      }
      if (begin + length == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[begin + length]);
      const auto at = [length](const SpecialToken& token) {
        return static_cast<unsigned char>(token.text[length]);
      };
      low = std::partition_point(low, high,
                                 [&](const SpecialToken& token) { return at(token) < byte; });
      high = std::partition_point(low, high,
                                  [&](const SpecialToken& token) { return at(token) == byte; });
      if (low == high) break;
    }
    if (longest.has_value()) return longest;
  }
  return std::nullopt;
}

}  // namespace m1
