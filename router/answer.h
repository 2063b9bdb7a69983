// From generated tokens to what a client is sent: whole UTF-8, taken apart into channels.
//
// Plain code without gRPC. Every token comes out in exactly one delta, in order, on the channel of
// its first byte, once that channel is certain; text comes out as soon as it may be shown. Control
// tokens and stop tokens show no text.
//
// Stop strings are looked for in the text of the whole answer as Detokenize would show it, thought
// and tags included, before it is taken apart. The answer ends with the token that completes one.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "common/text/output_parser.h"
#include "common/text/stop_matcher.h"
#include "common/text/thought_meter.h"
#include "common/text/utf8_stream.h"
#include "router/token_pieces.h"
#include "router/worker_protocol.h"

namespace m1 {

struct AnswerToolCall {
  std::string name;
  std::string arguments_json;
};

struct AnswerDelta {
  OutputChannel channel = OutputChannel::kContent;
  std::string text;
  std::vector<AnswerToken> tokens;
  std::optional<AnswerToolCall> tool_call;
};

struct AnswerOptions {
  bool is_chat = false;  // false: everything is content, and no text is left out
  bool tools_enabled = false;
  std::vector<int32_t> stop_token_ids = {};  // sorted
  std::vector<std::string> stop_strings = {};
  bool include_stop_text = false;  // the stop string that matched is part of the text
  int32_t min_new_tokens = 0;      // so many tokens complete no stop string
};

// Not thread-safe. Order of calls: GoOnAfter at most once, Push any number of times, Finish once.
class AnswerBuilder {
 public:
  // `pieces` must outlive the builder.
  AnswerBuilder(const TokenPieces* pieces, AnswerOptions options);

  // An earlier stream has answered with these already: what they began goes on, and they are not
  // counted.
  void GoOnAfter(std::span<const int32_t> ids);
  // The next generated tokens. Those behind a match are dropped.
  std::vector<AnswerDelta> Push(std::vector<AnswerToken> tokens);
  // The answer ends: what was held back.
  std::vector<AnswerDelta> Finish();

  // The stop string that ended the answer, if one did. The end itself may complete one: a character
  // that stays unfinished is shown then.
  const std::optional<std::string>& matched_stop_string() const { return stops_.matched(); }
  int32_t num_tokens() const { return num_tokens_ - num_earlier_tokens_; }
  // Tokens of the thought; of answers that are not taken apart, too.
  int32_t num_reasoning_tokens() const {
    return thought_.num_tokens() - num_earlier_reasoning_tokens_;
  }
  int32_t num_tool_calls() const { return num_tool_calls_; }

 private:
  // A token that waits until the channels of its bytes are known. Offsets count the bytes of the
  // answer's text.
  struct HeldToken {
    AnswerToken token;
    int64_t begin = 0;
    int64_t end = 0;            // > begin, except for tokens without text
    bool in_reasoning = false;  // without text: where it stands
  };
  struct ToldRun {
    OutputChannel channel = OutputChannel::kContent;
    int64_t begin = 0;
    int64_t end = 0;
  };

  // What a token adds to the text; empty: nothing.
  absl::string_view ShownBytes(int32_t id) const;
  // The part of the text up to here that may be shown, less what was shown before.
  std::string Release(absl::string_view text);
  void Hold(AnswerToken token, ParsedOutput* parsed);
  void Feed(absl::string_view text, ParsedOutput* parsed);
  void Tell(const std::vector<ChannelRun>& channels);
  // Held tokens whose channels are known by now, in runs of one channel without text.
  std::vector<AnswerDelta> TakeToldTokens(bool take_all);
  std::vector<AnswerDelta> Assemble(std::vector<OutputEvent> events, bool take_all);
  OutputChannel ChannelAt(int64_t offset) const;

  const TokenPieces* const pieces_;
  const AnswerOptions options_;
  Utf8Stream utf8_;
  StopMatcher stops_;
  OutputParser parser_;
  ThoughtMeter thought_;
  std::deque<HeldToken> held_;
  std::deque<ToldRun> told_;  // runs that held tokens may still need
  int64_t num_text_bytes_ = 0;
  int64_t num_told_bytes_ = 0;
  OutputChannel last_channel_ = OutputChannel::kContent;  // of the token given out last
  int32_t num_tokens_ = 0;
  int32_t num_earlier_tokens_ = 0;  // of GoOnAfter
  int32_t num_earlier_reasoning_tokens_ = 0;
  int32_t num_tool_calls_ = 0;
};

}  // namespace m1
