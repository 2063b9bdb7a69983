// Where a thought that takes too long is cut: the policy of thinking.budget_tokens.
//
// A function of the generated tokens alone, so the answer depends neither on when the router hears
// of them nor on how often its worker changes. The worker never generates past the pause it was
// told; here it learns whether the thought was closed before and, if not, what to take as if
// generated. The closing ids are fed once: a closing text that does not close the thought leaves it
// to the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/text/thought_meter.h"
#include "router/request.h"
#include "router/token_pieces.h"

namespace m1 {

// Not thread-safe.
class ThinkingBudget {
 public:
  // `pieces` must outlive it.
  ThinkingBudget(ThinkingLimit limit, const TokenPieces* pieces);

  // The next token of the answer. False when another one was to be fed.
  bool Record(int32_t id);

  // Not empty: the answer goes on with these, then as the model likes.
  std::span<const int32_t> ids_to_feed() const;
  // How many tokens may be generated in all before Record must have seen them; absent: any number.
  // Never falls from call to call.
  std::optional<int64_t> pause_at() const;
  // While it is not yet known where the thought begins, the pause moves on with every token.
  bool pause_is_provisional() const {
    return !is_closing_ && meter_.state() == ThoughtState::kExpected;
  }

 private:
  const ThinkingLimit limit_;
  const TokenPieces* const pieces_;
  ThoughtMeter meter_;
  int64_t num_generated_ = 0;
  bool is_closing_ = false;  // the budget is used up
  size_t num_fed_ = 0;       // of closing_ids, seen again
};

}  // namespace m1
