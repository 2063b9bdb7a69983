#include "common/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace m1 {
namespace {

std::vector<uint32_t> BordersOf(const std::string& text) {
  std::vector<uint32_t> borders(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t length = borders[i - 1];
    while (length > 0 && text[length] != text[i]) length = borders[length - 1];
    if (text[length] == text[i]) ++length;
    borders[i] = static_cast<uint32_t>(length);
  }
  return borders;
}

}  // namespace

StopMatcher::StopMatcher(const std::vector<std::string>& stop_strings) {
  for (const std::string& text : stop_strings) {
    patterns_.push_back({.text = text, .borders = BordersOf(text), .length = 0});
  }
}

bool StopMatcher::Pattern::Step(char c) {
  while (length > 0 && text[length] != c) length = borders[length - 1];
  if (text[length] == c) ++length;
  if (length < text.size()) return false;
  length = borders[length - 1];
  return true;
}

std::string StopMatcher::Push(absl::string_view text, bool may_match) {
  if (matched_) return "";
  held_.append(text.data(), text.size());
  const size_t num_before = held_.size() - text.size();
  for (size_t i = 0; i < text.size(); ++i) {
    const Pattern* longest = nullptr;
    for (Pattern& pattern : patterns_) {
      if (!pattern.Step(text[i]) || !may_match) continue;
      if (longest == nullptr || pattern.text.size() > longest->text.size()) longest = &pattern;
    }
    if (longest == nullptr) continue;
    matched_ = longest->text;
    const size_t begin = num_before + i + 1 - matched_->size();
    cut_text_ = held_.substr(begin);
    held_.resize(begin);
    return std::exchange(held_, "");
  }
  size_t num_held = 0;
  for (const Pattern& pattern : patterns_) num_held = std::max(num_held, pattern.length);
  std::string shown = held_.substr(0, held_.size() - num_held);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace m1
