#include "router/thinking_budget.h"

#include <utility>

namespace m1 {

ThinkingBudget::ThinkingBudget(ThinkingLimit limit, const TokenPieces* pieces)
    : limit_(std::move(limit)), pieces_(pieces), is_closing_(limit_.budget_tokens == 0) {}

bool ThinkingBudget::Record(int32_t id) {
  if (!ids_to_feed().empty()) {
    if (id != ids_to_feed().front()) return false;
    ++num_fed_;
  }
  ++num_generated_;
  meter_.Push(pieces_->IsSpecial(id) ? absl::string_view() : pieces_->Bytes(id));
  if (meter_.state() == ThoughtState::kOpen && meter_.num_tokens() >= limit_.budget_tokens) {
    is_closing_ = true;
  }
  return true;
}

std::span<const int32_t> ThinkingBudget::ids_to_feed() const {
  if (!is_closing_) return {};
  return std::span<const int32_t>(limit_.closing_ids).subspan(num_fed_);
}

std::optional<int64_t> ThinkingBudget::pause_at() const {
  if (is_closing_ || meter_.state() == ThoughtState::kOver) return std::nullopt;
  const int64_t budget = limit_.budget_tokens;
  // The next token may complete <think>.
  if (meter_.state() == ThoughtState::kExpected) return num_generated_ + 1 + budget;
  return num_generated_ + budget - meter_.num_tokens();
}

}  // namespace m1
