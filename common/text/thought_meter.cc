#include "common/text/thought_meter.h"

#include "common/text/output_parser.h"

namespace m1 {

void ThoughtMeter::Push(absl::string_view bytes) {
  const bool was_open = state_ == ThoughtState::kOpen;
  for (char c : bytes) Step(c);
  if (was_open && state_ == ThoughtState::kOpen) ++num_tokens_;
}

void ThoughtMeter::Step(char c) {
  switch (state_) {
    case ThoughtState::kExpected:
      if (c == kThinkOpen[matched_]) {
        if (++matched_ < kThinkOpen.size()) return;
        matched_ = 0;
        state_ = ThoughtState::kOpen;
      } else if (matched_ > 0 || !IsOutputSpace(c)) {
        state_ = ThoughtState::kOver;
      }
      return;
    case ThoughtState::kOpen:
      if (c != kThinkClose[matched_]) matched_ = 0;
      if (c != kThinkClose[matched_]) return;  // the tag does not begin with this byte either
      if (matched_ == 0) num_tokens_before_tag_ = num_tokens_;
      if (++matched_ < kThinkClose.size()) return;
      num_tokens_ = num_tokens_before_tag_;
      state_ = ThoughtState::kOver;
      return;
    case ThoughtState::kOver:
      return;
  }
}

}  // namespace m1
