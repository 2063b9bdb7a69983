#include "common/text/chat_template.h"

#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/text/python_json.h"

namespace m1 {
namespace {

constexpr absl::string_view kBeginDocument = "<begin_of_document>";
constexpr absl::string_view kBeginSentence = "<beginning_of_sentence>";
constexpr absl::string_view kEndSentence = "<end_of_sentence>";

constexpr absl::string_view kToolsHeader =
    "system tool_setting=tools\nYou are provided with these tools:\n<tools>\n";
// The missing quotes around name and arguments are the reference's: its ''name'' ends and reopens a
// Jinja string.
constexpr absl::string_view kToolsFooter =
    "</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> XML "
    "tags, and provide "
    "tool-name and json-object of arguments, following the format below:\n<tool_calls>\n"
    "{name: <tool-name-1>, arguments: <args-json-object-1>}\n...\n</tool_calls>";

using Parts = std::vector<TemplatePart>;

class SegmentWriter {
 public:
  void Control(absl::string_view name) {
    segments_.push_back({.is_control = true, .text = std::string(name)});
  }
  void Text(absl::string_view text) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().is_control)
      segments_.push_back({.is_control = false, .text = ""});
    segments_.back().text.append(text.data(), text.size());
  }
  void Sentence(absl::string_view head, absl::string_view text) {
    Control(kBeginSentence);
    Text(head);
    Text(text);
    Control(kEndSentence);
    Text("\n");
  }
  std::vector<PromptSegment> Take() { return std::move(segments_); }

 private:
  std::vector<PromptSegment> segments_;
};

absl::Status MessageError(size_t index, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("messages[", index, "].content", problem));
}

// content[0]['text']
absl::StatusOr<std::string> FirstText(const TemplateMessage& message, size_t index) {
  const Parts* parts = std::get_if<Parts>(&message.content);
  if (parts == nullptr) return MessageError(index, ": not a list of parts");
  if (parts->empty()) return MessageError(index, ": an empty list");
  if (!parts->front().text) return MessageError(index, "[0].text: missing");
  return *parts->front().text;
}

// The parts of type text. What is no list of parts prints nothing, as in the reference.
std::string AssistantText(const TemplateMessage& message) {
  std::string text;
  const Parts* parts = std::get_if<Parts>(&message.content);
  if (parts == nullptr) return text;
  for (const TemplatePart& part : *parts) {
    if (part.type == "text") text += part.text.value_or("");
  }
  return text;
}

absl::StatusOr<std::string> ToolResults(const TemplateMessage& message, size_t index) {
  std::string text;
  const Parts* parts = std::get_if<Parts>(&message.content);
  if (parts == nullptr) {
    const std::string* plain = std::get_if<std::string>(&message.content);
    if (plain != nullptr && plain->empty())
      return text;  // the reference's loop runs over no characters
    return MessageError(index, ": not a list of parts");
  }
  for (size_t i = 0; i < parts->size(); ++i) {
    const TemplatePart& part = (*parts)[i];
    if (!part.name) return MessageError(index, absl::StrCat("[", i, "].name: missing"));
    if (!part.text) return MessageError(index, absl::StrCat("[", i, "].text: missing"));
    absl::StrAppend(&text, "tool name: ", *part.name, "\ntool result: ", *part.text, "\n\n");
  }
  return text;
}

absl::Status WriteMessage(const TemplateMessage& message, size_t index, SegmentWriter* writer) {
  absl::StatusOr<std::string> text;
  absl::string_view head;
  if (message.role == "user") {
    head = "user name=user\n";
    text = FirstText(message, index);
  } else if (message.role == "assistant") {
    head = "ai name=assistant\n";
    text = AssistantText(message);
  } else if (message.role == "tool") {
    head = "tool name=tools\n";
    text = ToolResults(message, index);
  } else {
    return absl::OkStatus();
  }
  if (!text.ok()) return text.status();
  writer->Sentence(head, *text);
  return absl::OkStatus();
}

absl::Status FieldError(const std::string& field, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

absl::StatusOr<std::string> CanonicalField(const std::string& field, absl::string_view json) {
  absl::StatusOr<std::string> printed = CanonicalJsonObject(json);
  if (!printed.ok()) return FieldError(field, printed.status().message());
  return printed;
}

absl::StatusOr<std::string> TextWithCalls(const ChatMessage& message, const std::string& path) {
  std::string text = message.text;
  if (message.tool_calls.empty()) return text;
  if (!text.empty() && text.back() != '\n') text += '\n';
  text += "<tool_calls>\n";
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ChatToolCall& call = message.tool_calls[i];
    absl::StatusOr<std::string> arguments = CanonicalField(
        absl::StrCat(path, ".tool_calls[", i, "].arguments_json"), call.arguments_json);
    if (!arguments.ok()) return arguments.status();
    absl::StrAppend(&text, "{\"name\": ", PythonJsonString(call.name),
                    ", \"arguments\": ", *arguments, "}\n");
  }
  text += "</tool_calls>";
  return text;
}

absl::StatusOr<std::string> ToolLine(const ChatTool& tool, const std::string& path) {
  absl::StatusOr<std::string> parameters =
      CanonicalField(path + ".parameters_json", tool.parameters_json);
  if (!parameters.ok()) return parameters.status();
  std::string line = absl::StrCat("{\"name\": ", PythonJsonString(tool.name));
  if (tool.description)
    absl::StrAppend(&line, ", \"description\": ", PythonJsonString(*tool.description));
  absl::StrAppend(&line, ", \"parameters\": ", *parameters, "}");
  return line;
}

std::string RoleName(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return "system";
    case ChatRole::kUser:
      return "user";
    case ChatRole::kAssistant:
      return "assistant";
    case ChatRole::kTool:
      return "tool";
  }
  return "";
}

}  // namespace

absl::StatusOr<std::vector<PromptSegment>> RenderTemplate(const TemplateInput& input) {
  SegmentWriter writer;
  writer.Control(kBeginDocument);
  std::string system_prompt;
  for (size_t i = 0; i < input.messages.size(); ++i) {
    if (input.messages[i].role != "system") continue;
    absl::StatusOr<std::string> text = FirstText(input.messages[i], i);
    if (!text.ok()) return text.status();
    system_prompt += *text;
  }
  if (!system_prompt.empty()) writer.Sentence("system ai_setting=assistant\n", system_prompt);
  if (!input.tool_lines.empty()) {
    std::string lines;
    for (const std::string& line : input.tool_lines) absl::StrAppend(&lines, line, "\n");
    writer.Sentence(kToolsHeader, absl::StrCat(lines, kToolsFooter));
  }
  for (size_t i = 0; i < input.messages.size(); ++i) {
    if (absl::Status status = WriteMessage(input.messages[i], i, &writer); !status.ok())
      return status;
  }
  if (input.add_generation_prompt) {
    writer.Control(kBeginSentence);
    writer.Text("ai name=assistant\n");
  }
  return writer.Take();
}

absl::StatusOr<TemplateInput> NormalizeChat(const Chat& chat) {
  TemplateInput input;
  for (size_t i = 0; i < chat.tools.size(); ++i) {
    absl::StatusOr<std::string> line = ToolLine(chat.tools[i], absl::StrCat("tools[", i, "]"));
    if (!line.ok()) return line.status();
    input.tool_lines.push_back(*std::move(line));
  }
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    const std::string path = absl::StrCat("messages[", i, "]");
    const bool is_tool = message.role == ChatRole::kTool;
    if (is_tool != message.tool_name.has_value()) {
      return FieldError(path + ".tool_name",
                        is_tool ? "required for a TOOL message" : "only for a TOOL message");
    }
    if (!message.tool_calls.empty() && message.role != ChatRole::kAssistant) {
      return FieldError(path + ".tool_calls", "only for an ASSISTANT message");
    }
    absl::StatusOr<std::string> text = TextWithCalls(message, path);
    if (!text.ok()) return text.status();
    TemplatePart part{.type = "text", .text = *std::move(text), .name = message.tool_name};
    if (is_tool && i > 0 && chat.messages[i - 1].role == ChatRole::kTool) {
      std::get<Parts>(input.messages.back().content).push_back(std::move(part));
    } else {
      input.messages.push_back({.role = RoleName(message.role), .content = Parts{std::move(part)}});
    }
  }
  return input;
}

absl::StatusOr<std::vector<PromptSegment>> RenderChat(const Chat& chat) {
  absl::StatusOr<TemplateInput> input = NormalizeChat(chat);
  if (!input.ok()) return input.status();
  return RenderTemplate(*input);
}

std::string PromptText(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& segment : segments) text += segment.text;
  return text;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const std::vector<PromptSegment>& segments,
                                                  const PromptEncoder& encoder) {
  std::vector<int32_t> ids;
  for (const PromptSegment& segment : segments) {
    if (!segment.is_control) {
      const std::vector<int32_t> run = encoder.encode_text(segment.text);
      ids.insert(ids.end(), run.begin(), run.end());
      continue;
    }
    const std::optional<int32_t> id = encoder.special_token_id(segment.text);
    if (!id)
      return absl::FailedPreconditionError(
          absl::StrCat("the tokenizer has no token ", segment.text));
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace m1
