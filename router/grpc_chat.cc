#include "router/grpc_chat.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#include "common/text/python_json.h"

namespace m1 {
namespace {

constexpr int kMaxMessages = 4096;
constexpr int kMaxTools = 256;

void CheckJsonObject(const std::string& json, const std::string& field, Violations* violations) {
  const absl::StatusOr<std::string> object = CanonicalJsonObject(json);
  if (object.ok()) return;
  violations->Add(field, absl::StrCat("is no JSON object of depth <= ", kMaxJsonDepth, ": ",
                                      object.status().message()));
}

void CheckMessage(const v1::ChatMessage& message, const std::string& path, Violations* violations) {
  switch (message.role()) {
    case v1::ROLE_SYSTEM:
    case v1::ROLE_USER:
    case v1::ROLE_ASSISTANT:
    case v1::ROLE_TOOL:
      break;
    default:
      violations->Add(path + ".role", absl::StrCat("is ", static_cast<int>(message.role()),
                                                   ", must be SYSTEM, USER, ASSISTANT or TOOL"));
      return;
  }
  if (message.role() == v1::ROLE_TOOL) {
    if (message.tool_name().empty()) {
      violations->Add(path + ".tool_name", "is absent or empty, a TOOL message must have it");
    }
  } else if (message.has_tool_name()) {
    violations->Add(path + ".tool_name", "is set, only a TOOL message may have it");
  }
  if (message.role() != v1::ROLE_ASSISTANT && message.tool_calls_size() > 0) {
    violations->Add(path + ".tool_calls", absl::StrCat("has ", message.tool_calls_size(),
                                                       " entries, only an ASSISTANT message may"));
    return;
  }
  for (int i = 0; i < message.tool_calls_size() && !violations->full(); ++i) {
    const v1::ToolCall& call = message.tool_calls(i);
    const std::string call_path = absl::StrCat(path, ".tool_calls[", i, "]");
    if (call.name().empty()) violations->Add(call_path + ".name", "is empty");
    CheckJsonObject(call.arguments_json(), call_path + ".arguments_json", violations);
  }
}

ChatRole ReadRole(v1::Role role) {
  switch (role) {
    case v1::ROLE_SYSTEM:
      return ChatRole::kSystem;
    case v1::ROLE_ASSISTANT:
      return ChatRole::kAssistant;
    case v1::ROLE_TOOL:
      return ChatRole::kTool;
    default:
      return ChatRole::kUser;
  }
}

}  // namespace

void CheckChat(const v1::Chat& chat, Violations* violations) {
  violations->Require(chat.messages_size() >= 1 && chat.messages_size() <= kMaxMessages,
                      "chat.messages", absl::StrCat(chat.messages_size(), " messages"), "1..4096");
  violations->Require(chat.tools_size() <= kMaxTools, "chat.tools",
                      absl::StrCat(chat.tools_size(), " tools"), "at most 256");
  for (int i = 0; i < chat.messages_size() && !violations->full(); ++i) {
    CheckMessage(chat.messages(i), absl::StrCat("chat.messages[", i, "]"), violations);
  }
  for (int i = 0; i < chat.tools_size() && !violations->full(); ++i) {
    const std::string path = absl::StrCat("chat.tools[", i, "]");
    if (chat.tools(i).name().empty()) violations->Add(path + ".name", "is empty");
    CheckJsonObject(chat.tools(i).parameters_json(), path + ".parameters_json", violations);
  }
}

Chat ReadChat(const v1::Chat& chat) {
  Chat read;
  for (const v1::ChatMessage& message : chat.messages()) {
    ChatMessage& to = read.messages.emplace_back();
    to.role = ReadRole(message.role());
    to.text = message.text();
    for (const v1::ToolCall& call : message.tool_calls()) {
      to.tool_calls.push_back({.name = call.name(), .arguments_json = call.arguments_json()});
    }
    if (message.has_tool_name()) to.tool_name = message.tool_name();
  }
  for (const v1::Tool& tool : chat.tools()) {
    ChatTool& to = read.tools.emplace_back();
    to.name = tool.name();
    if (tool.has_description()) to.description = tool.description();
    to.parameters_json = tool.parameters_json();
  }
  return read;
}

}  // namespace m1
