// Counts the tokens of a thought while they arrive.
//
// The thought is what OutputParser takes for one: <think> stands first, after nothing but space,
// and all up to </think> belongs to it. Its tokens are those after the one that completes <think>
// up to, without, the first that carries a byte of </think>.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace m1 {

enum class ThoughtState {
  kExpected,  // nothing but space and a beginning of <think> so far
  kOpen,
  kOver,  // closed, or something else stood first
};

// Not thread-safe.
class ThoughtMeter {
 public:
  // The next token. `bytes` need not be whole characters, and are empty for a token that shows no
  // text.
  void Push(absl::string_view bytes);

  ThoughtState state() const { return state_; }
  // While the thought is open, a beginning of </think> counts: only the rest of the tag would take
  // its tokens out again.
  int32_t num_tokens() const { return num_tokens_; }

 private:
  void Step(char c);

  ThoughtState state_ = ThoughtState::kExpected;
  size_t matched_ = 0;  // bytes of the tag that state_ waits for
  int32_t num_tokens_ = 0;
  int32_t num_tokens_before_tag_ = 0;  // before the token in which the matched </think> begins
};

}  // namespace m1
