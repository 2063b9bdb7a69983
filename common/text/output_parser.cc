#include "common/text/output_parser.h"

#include <optional>
#include <utility>

#include "absl/status/statusor.h"

#include "common/text/python_json.h"

namespace m1 {
namespace {

constexpr absl::string_view kCallsOpen = "<tool_calls>";
constexpr absl::string_view kCallsClose = "</tool_calls>";

// A call is one level around its arguments.
constexpr int kMaxCallDepth = kMaxJsonDepth + 1;

absl::string_view StripSpace(absl::string_view text) {
  while (!text.empty() && IsOutputSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsOutputSpace(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<OutputEvent> ParseCall(absl::string_view line) {
  if (line.front() != '{') return std::nullopt;
  const absl::StatusOr<JsonValue> call = ParseJson(line, kMaxCallDepth);
  if (!call.ok() || call->kind != JsonValue::Kind::kObject) return std::nullopt;
  const JsonValue* name = call->Find("name");
  if (name == nullptr || name->kind != JsonValue::Kind::kString || name->text.empty())
    return std::nullopt;
  OutputEvent event{
      .channel = OutputChannel::kToolCall, .text = "", .name = name->text, .arguments_json = "{}"};
  const JsonValue* arguments = call->Find("arguments");
  if (arguments != nullptr && arguments->kind != JsonValue::Kind::kNull) {
    if (arguments->kind != JsonValue::Kind::kObject) return std::nullopt;
    event.arguments_json = PrintPythonJson(*arguments);
  }
  return event;
}

}  // namespace

ParsedOutput OutputParser::Feed(absl::string_view text) {
  for (char c : text) Step(c);
  return std::exchange(out_, ParsedOutput());
}

ParsedOutput OutputParser::Finish() {
  switch (phase_) {
    case Phase::kStart:
      Tell(OutputChannel::kContent, space_.size());
      [[fallthrough]];
    case Phase::kContent:
      if (matched_ > 0) {
        FlushPartialTag();
      } else {
        Emit(OutputChannel::kContent, space_);
      }
      break;
    case Phase::kThought:
      FlushPartialTag();
      break;
    case Phase::kBlock:
      Tell(OutputChannel::kToolCall, matched_);
      EndLine(/*by_newline=*/false);
      break;
    case Phase::kThoughtStart:
    case Phase::kAfterThought:
      break;
  }
  return std::exchange(out_, ParsedOutput());
}

void OutputParser::Step(char c) {
  switch (phase_) {
    case Phase::kStart:
      StepStart(c);
      return;
    case Phase::kThoughtStart:
      phase_ = Phase::kThought;
      if (c == '\n') {
        Tell(OutputChannel::kReasoning, 1);
      } else {
        StepThought(c);
      }
      return;
    case Phase::kThought:
      StepThought(c);
      return;
    case Phase::kAfterThought:
      if (c == '\n') {
        Tell(OutputChannel::kContent, 1);
        return;
      }
      phase_ = Phase::kContent;
      StepContent(c);
      return;
    case Phase::kContent:
      StepContent(c);
      return;
    case Phase::kBlock:
      StepBlock(c);
      return;
  }
}

void OutputParser::StepStart(char c) {
  if (matched_ == 0 && IsOutputSpace(c)) {
    space_.push_back(c);
    return;
  }
  if (c == kThinkOpen[matched_]) {
    if (++matched_ < kThinkOpen.size()) return;
    Tell(OutputChannel::kContent, space_.size() + kThinkOpen.size());
    space_.clear();
    matched_ = 0;
    has_reasoning_ = true;
    phase_ = Phase::kThoughtStart;
    return;
  }
  // No thought: the same bytes again as content (<t may begin <tool_calls>).
  const std::string held = std::exchange(space_, "") + std::string(kThinkOpen.substr(0, matched_));
  matched_ = 0;
  phase_ = Phase::kContent;
  for (char h : held) StepContent(h);
  StepContent(c);
}

void OutputParser::StepThought(char c) {
  if (c == kThinkClose[matched_]) {
    if (++matched_ < kThinkClose.size()) return;
    Tell(OutputChannel::kContent, kThinkClose.size());
    matched_ = 0;
    held_newline_ = false;
    phase_ = Phase::kAfterThought;
    return;
  }
  if (matched_ > 0) {
    FlushPartialTag();
    StepThought(c);
    return;
  }
  if (held_newline_) Emit(OutputChannel::kReasoning, "\n");
  held_newline_ = c == '\n';
  if (!held_newline_) Emit(OutputChannel::kReasoning, absl::string_view(&c, 1));
  Tell(OutputChannel::kReasoning, 1);
}

void OutputParser::StepContent(char c) {
  if (!tools_enabled_) {
    Emit(OutputChannel::kContent, absl::string_view(&c, 1));
    Tell(OutputChannel::kContent, 1);
    return;
  }
  if (c == kCallsOpen[matched_]) {
    if (++matched_ == kCallsOpen.size()) OpenBlock();
    return;
  }
  if (matched_ > 0) {
    FlushPartialTag();
    StepContent(c);
    return;
  }
  if (!IsOutputSpace(c)) {
    EmitContent(absl::string_view(&c, 1));
  } else if (!after_block_) {
    space_.push_back(c);
  }
  Tell(OutputChannel::kContent, 1);
}

void OutputParser::OpenBlock() {
  Tell(OutputChannel::kToolCall, kCallsOpen.size());
  matched_ = 0;
  if (!after_block_ && content_shown_) separator_ += space_;
  space_.clear();
  phase_ = Phase::kBlock;
}

void OutputParser::StepBlock(char c) {
  if (!in_string_ && c == kCallsClose[matched_]) {
    if (++matched_ < kCallsClose.size()) return;
    Tell(OutputChannel::kToolCall, kCallsClose.size());
    EndLine(/*by_newline=*/false);
    after_block_ = true;
    phase_ = Phase::kContent;
    return;
  }
  if (matched_ > 0) {
    FlushPartialTag();
    StepBlock(c);
    return;
  }
  Tell(OutputChannel::kToolCall, 1);
  if (c == '\n') {
    EndLine(/*by_newline=*/true);
    return;
  }
  line_.push_back(c);
  if (escaped_) {
    escaped_ = false;
  } else if (c == '\\') {
    escaped_ = in_string_;
  } else if (c == '"') {
    in_string_ = !in_string_;
  }
}

// The tag did not come: what looked like its beginning is ordinary text of the phase.
void OutputParser::FlushPartialTag() {
  const size_t length = std::exchange(matched_, 0);
  switch (phase_) {
    case Phase::kThought:
      if (std::exchange(held_newline_, false)) Emit(OutputChannel::kReasoning, "\n");
      Emit(OutputChannel::kReasoning, kThinkClose.substr(0, length));
      Tell(OutputChannel::kReasoning, length);
      return;
    case Phase::kBlock:
      line_.append(kCallsClose.data(), length);
      Tell(OutputChannel::kToolCall, length);
      return;
    case Phase::kStart:
      EmitContent(kThinkOpen.substr(0, length));
      Tell(OutputChannel::kContent, length);
      return;
    default:
      EmitContent(kCallsOpen.substr(0, length));
      Tell(OutputChannel::kContent, length);
  }
}

void OutputParser::EndLine(bool by_newline) {
  const std::string line = std::exchange(line_, "");
  matched_ = 0;
  in_string_ = false;
  escaped_ = false;
  const absl::string_view stripped = StripSpace(line);
  if (stripped.empty()) return;
  if (std::optional<OutputEvent> call = ParseCall(stripped)) {
    out_.events.push_back(*std::move(call));
    return;
  }
  EmitContent(stripped);
  if (by_newline) separator_ = "\n";
}

// Content that is not space: brings what was held before it.
void OutputParser::EmitContent(absl::string_view text) {
  Emit(OutputChannel::kContent, std::exchange(separator_, ""));
  Emit(OutputChannel::kContent, std::exchange(space_, ""));
  Emit(OutputChannel::kContent, text);
  content_shown_ = true;
  after_block_ = false;
}

void OutputParser::Emit(OutputChannel channel, absl::string_view text) {
  if (text.empty()) return;
  if (out_.events.empty() || out_.events.back().channel != channel) {
    out_.events.push_back({.channel = channel, .text = "", .name = "", .arguments_json = ""});
  }
  out_.events.back().text.append(text.data(), text.size());
}

void OutputParser::Tell(OutputChannel channel, size_t num_bytes) {
  if (num_bytes == 0) return;
  if (out_.channels.empty() || out_.channels.back().channel != channel) {
    out_.channels.push_back({.channel = channel, .num_bytes = 0});
  }
  out_.channels.back().num_bytes += static_cast<int64_t>(num_bytes);
}

}  // namespace m1
