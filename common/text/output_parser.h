// Takes the model's output apart while it arrives: thought, answer, tool calls.
//
// A thought stands first, in <think>…</think>; tool calls stand in <tool_calls>…</tool_calls>, one
// JSON object a line. What is no call inside such a block is shown as content, so nothing the model
// says is lost but tags and the space around them. The result does not depend on how the text is
// cut into pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace m1 {

inline constexpr absl::string_view kThinkOpen = "<think>";
inline constexpr absl::string_view kThinkClose = "</think>";

// What may stand before <think>.
inline bool IsOutputSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

enum class OutputChannel { kContent, kReasoning, kToolCall };

struct OutputEvent {
  OutputChannel channel = OutputChannel::kContent;
  std::string text;            // kContent, kReasoning: what to append
  std::string name;            // kToolCall
  std::string arguments_json;  // kToolCall: an object, printed as PrintPythonJson does
};

// The next `num_bytes` bytes of the fed text belong to `channel`.
struct ChannelRun {
  OutputChannel channel = OutputChannel::kContent;
  int64_t num_bytes = 0;
};

// `channels` go on where those of the call before ended; together, after Finish, they cover every
// fed byte. <think>, </think> and the space around them count as content, so reasoning is exactly
// the bytes between the tags (a token is a reasoning token if all its bytes are). A block is
// kToolCall from tag to tag, malformed lines too.
struct ParsedOutput {
  std::vector<OutputEvent> events;   // neighbours of one text channel are merged
  std::vector<ChannelRun> channels;  // a byte is told as soon as its channel is certain
};

// Time is linear in the text; memory is bounded by what must be held: a partial tag, a run of
// space, one line of a block. Not thread-safe. Order of calls: Feed any number of times, Finish
// once.
class OutputParser {
 public:
  explicit OutputParser(bool tools_enabled) : tools_enabled_(tools_enabled) {}

  // `text` is the next piece of the output, in whole UTF-8 characters, without EOS and stop text.
  ParsedOutput Feed(absl::string_view text);
  ParsedOutput Finish();

  // Whether the text opened with <think>, though the thought may be empty.
  bool has_reasoning() const { return has_reasoning_; }
  // Whether the thought is still open: false also before <think> is complete.
  bool in_reasoning() const { return phase_ == Phase::kThoughtStart || phase_ == Phase::kThought; }

 private:
  enum class Phase {
    kStart,         // space, and the beginning of <think>
    kThoughtStart,  // right after <think>
    kThought,
    kAfterThought,  // newlines after </think>
    kContent,
    kBlock,  // between <tool_calls> and </tool_calls>
  };

  void Step(char c);
  void StepStart(char c);
  void StepThought(char c);
  void StepContent(char c);
  void StepBlock(char c);
  void FlushPartialTag();
  void OpenBlock();
  void EndLine(bool by_newline);

  void Emit(OutputChannel channel, absl::string_view text);
  void EmitContent(absl::string_view text);
  void Tell(OutputChannel channel, size_t num_bytes);

  const bool tools_enabled_;
  Phase phase_ = Phase::kStart;
  bool has_reasoning_ = false;

  size_t matched_ = 0;  // bytes of the tag that phase_ waits for; their channel is not yet told
  std::string space_;   // kStart, kContent: the run of space before now, not yet shown
  bool held_newline_ = false;   // kThought: a newline that is dropped if </think> follows
  bool content_shown_ = false;  // any content so far
  bool after_block_ = false;    // kContent: nothing but space since the last block
  std::string separator_;       // shown before the next content: space before a block, newline of a
                                // malformed line

  std::string line_;        // kBlock: the line so far, without a partial closing tag
  bool in_string_ = false;  // kBlock: inside a JSON string of line_
  bool escaped_ = false;    // kBlock: the character before was a backslash that escapes this one

  ParsedOutput out_;
};

}  // namespace m1
