// A vocabulary made up on the fly: id i is the i-th text that was added; negative ids are control
// tokens.
#pragma once

#include <string>
#include <vector>

#include "router/token_pieces.h"

namespace m1 {

class TextPieces final : public TokenPieces {
 public:
  TextPieces() = default;
  explicit TextPieces(std::vector<std::string> texts) : texts_(std::move(texts)) {}

  // The id of `text`, added if it is new.
  int32_t Id(const std::string& text) {
    for (size_t i = 0; i < texts_.size(); ++i) {
      if (texts_[i] == text) return static_cast<int32_t>(i);
    }
    texts_.push_back(text);
    return static_cast<int32_t>(texts_.size()) - 1;
  }
  std::vector<int32_t> Ids(const std::vector<std::string>& texts) {
    std::vector<int32_t> ids;
    for (const std::string& text : texts) ids.push_back(Id(text));
    return ids;
  }
  int32_t size() const { return static_cast<int32_t>(texts_.size()); }

  absl::string_view Bytes(int32_t id) const override {
    if (id < 0) return "<control>";
    return id < size() ? absl::string_view(texts_[static_cast<size_t>(id)]) : absl::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id < 0; }

 private:
  std::vector<std::string> texts_;
};

}  // namespace m1
