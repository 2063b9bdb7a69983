// The prompt of a conversation, as the chat template of MiniMax-M1 writes it.
//
// A rendering is a list of segments: control tokens, which only the template can write, and the
// text between them. A caller's text that spells a control token stays text. Each run between two
// control tokens must be encoded whole (template text and caller text together), for the leading
// newlines of a message merge with the template's.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

// --- What callers of the server send (Chat in api.md) ---

enum class ChatRole { kSystem, kUser, kAssistant, kTool };

struct ChatToolCall {
  std::string name;
  std::string arguments_json;  // an object
};

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string text;
  std::vector<ChatToolCall> tool_calls;  // kAssistant only
  std::optional<std::string> tool_name;  // kTool: required; else absent
};

struct ChatTool {
  std::string name;
  std::optional<std::string> description;
  std::string parameters_json;  // JSON schema, an object
};

struct Chat {
  std::vector<ChatMessage> messages;
  std::vector<ChatTool> tools;
};

// --- What the template reads ---

// An absent member is one that the template would find undefined or of another type than string.
struct TemplatePart {
  std::optional<std::string> type;
  std::optional<std::string> text;
  std::optional<std::string> name;
};

// null, a plain string (which the template cannot use), or parts.
using TemplateContent = std::variant<std::monostate, std::string, std::vector<TemplatePart>>;

struct TemplateMessage {
  std::string role;
  TemplateContent content;
};

struct TemplateInput {
  std::vector<TemplateMessage> messages;
  std::vector<std::string> tool_lines;  // each tool as PrintPythonJson prints it
  bool add_generation_prompt = true;
};

struct PromptSegment {
  bool is_control = false;
  std::string text;  // the control token's name, or a run of text, never empty
};

// Neighbouring runs of text are one segment. Errors: InvalidArgument where the reference raises,
// naming the message.
absl::StatusOr<std::vector<PromptSegment>> RenderTemplate(const TemplateInput& input);

// What the server makes of a chat: tool calls are appended to the assistant's text, tool messages
// in a row become parts of one, JSON is printed as Python prints it. Errors: InvalidArgument naming
// the field by its path.
absl::StatusOr<TemplateInput> NormalizeChat(const Chat& chat);

// NormalizeChat, then RenderTemplate, with the generation suffix.
absl::StatusOr<std::vector<PromptSegment>> RenderChat(const Chat& chat);

// All segments in a row, as a reader sees them.
std::string PromptText(const std::vector<PromptSegment>& segments);

// What EncodePrompt needs of a tokenizer.
struct PromptEncoder {
  std::function<std::vector<int32_t>(absl::string_view)>
      encode_text;  // control strings are plain text
  std::function<std::optional<int32_t>(absl::string_view)> special_token_id;
};

// Errors: FailedPrecondition when the tokenizer lacks a control token.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const std::vector<PromptSegment>& segments,
                                                  const PromptEncoder& encoder);

}  // namespace m1
