// Reads the recorded rows that the tests of common/text share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"

#include "common/text/chat_template.h"
#include "common/text/python_json.h"

namespace m1 {

// The objects of a JSON Lines file.
inline std::vector<JsonValue> ReadJsonLines(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  std::vector<JsonValue> rows;
  for (std::string line; std::getline(file, line);) {
    absl::StatusOr<JsonValue> row = ParseJson(line, 200);
    EXPECT_TRUE(row.ok()) << row.status();
    if (row.ok()) rows.push_back(*std::move(row));
  }
  return rows;
}

inline std::optional<std::string> StringAt(const JsonValue& object, absl::string_view key) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->kind != JsonValue::Kind::kString) return std::nullopt;
  return value->text;
}

// A list of ids; nothing if `object` has none under `key`.
inline std::optional<std::vector<int32_t>> IdsAt(const JsonValue& object, absl::string_view key) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->kind != JsonValue::Kind::kArray) return std::nullopt;
  std::vector<int32_t> ids;
  for (const JsonValue& item : value->items) {
    int32_t id = -1;
    EXPECT_TRUE(absl::SimpleAtoi(item.text, &id)) << item.text;
    ids.push_back(id);
  }
  return ids;
}

// What a row of chat_template.jsonl gives to the template.
inline TemplateInput TemplateInputOf(const JsonValue& row) {
  TemplateInput input;
  for (const JsonValue& item : row.Find("messages")->items) {
    TemplateMessage& message = input.messages.emplace_back();
    message.role = StringAt(item, "role").value_or("");
    const JsonValue* content = item.Find("content");
    if (content == nullptr || content->kind == JsonValue::Kind::kNull) continue;
    if (content->kind == JsonValue::Kind::kString) {
      message.content = content->text;
      continue;
    }
    std::vector<TemplatePart> parts;
    for (const JsonValue& part : content->items) {
      parts.push_back({.type = StringAt(part, "type"),
                       .text = StringAt(part, "text"),
                       .name = StringAt(part, "name")});
    }
    message.content = std::move(parts);
  }
  for (const JsonValue& tool : row.Find("tools")->items) {
    input.tool_lines.push_back(PrintPythonJson(tool));
  }
  input.add_generation_prompt = row.Find("add_generation_prompt")->text == "true";
  return input;
}

// The chat of an `api` object in chat_template.jsonl.
inline Chat ChatOf(const JsonValue& api) {
  Chat chat;
  for (const JsonValue& item : api.Find("messages")->items) {
    ChatMessage& message = chat.messages.emplace_back();
    const std::string role = *StringAt(item, "role");
    message.role = role == "SYSTEM"      ? ChatRole::kSystem
                   : role == "USER"      ? ChatRole::kUser
                   : role == "ASSISTANT" ? ChatRole::kAssistant
                                         : ChatRole::kTool;
    message.text = StringAt(item, "text").value_or("");
    message.tool_name = StringAt(item, "tool_name");
    if (const JsonValue* calls = item.Find("tool_calls")) {
      for (const JsonValue& call : calls->items) {
        message.tool_calls.push_back({*StringAt(call, "name"), *StringAt(call, "arguments_json")});
      }
    }
  }
  for (const JsonValue& tool : api.Find("tools")->items) {
    chat.tools.push_back({*StringAt(tool, "name"), StringAt(tool, "description"),
                          *StringAt(tool, "parameters_json")});
  }
  return chat;
}

}  // namespace m1
