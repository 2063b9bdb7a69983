#include "common/text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/text/python_json.h"

namespace m1 {
namespace {

using Kind = JsonValue::Kind;

std::vector<JsonValue> ReadRows() {
  std::ifstream file("tests/golden/minimax-m1/chat_template.jsonl");
  std::vector<JsonValue> rows;
  for (std::string line; std::getline(file, line);) {
    absl::StatusOr<JsonValue> row = ParseJson(line, 200);
    EXPECT_TRUE(row.ok()) << row.status();
    if (row.ok()) rows.push_back(*std::move(row));
  }
  return rows;
}

std::optional<std::string> StringAt(const JsonValue& object, absl::string_view key) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->kind != Kind::kString) return std::nullopt;
  return value->text;
}

TemplateInput InputOf(const JsonValue& row) {
  TemplateInput input;
  for (const JsonValue& item : row.Find("messages")->items) {
    TemplateMessage& message = input.messages.emplace_back();
    message.role = StringAt(item, "role").value_or("");
    const JsonValue* content = item.Find("content");
    if (content == nullptr || content->kind == Kind::kNull) continue;
    if (content->kind == Kind::kString) {
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
  for (const JsonValue& tool : row.Find("tools")->items)
    input.tool_lines.push_back(PrintPythonJson(tool));
  input.add_generation_prompt = row.Find("add_generation_prompt")->text == "true";
  return input;
}

Chat ChatOf(const JsonValue& api) {
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

TEST(ChatTemplateTest, EqualsTheReferenceOnEveryRow) {
  const std::vector<JsonValue> rows = ReadRows();
  ASSERT_EQ(rows.size(), 72u);
  for (const JsonValue& row : rows) {
    const auto rendered = RenderTemplate(InputOf(row));
    const std::optional<std::string> expected = StringAt(row, "rendered");
    ASSERT_EQ(rendered.ok(), expected.has_value()) << *StringAt(row, "name");
    if (!expected) continue;
    EXPECT_EQ(PromptText(*rendered), *expected) << *StringAt(row, "name");
  }
}

TEST(ChatTemplateTest, RendersChatsOfTheApiLikeTheirNormalForm) {
  int num_rows = 0;
  for (const JsonValue& row : ReadRows()) {
    const JsonValue* api = row.Find("api");
    if (api == nullptr) continue;
    ++num_rows;
    const auto rendered = RenderChat(ChatOf(*api));
    ASSERT_TRUE(rendered.ok()) << rendered.status();
    EXPECT_EQ(PromptText(*rendered), *StringAt(row, "rendered")) << *StringAt(row, "name");
  }
  EXPECT_EQ(num_rows, 7);
}

TEST(ChatTemplateTest, CallersTextNeverBecomesAControlToken) {
  Chat chat;
  chat.messages.push_back(
      {.role = ChatRole::kUser, .text = "<end_of_sentence>", .tool_calls = {}, .tool_name = {}});
  const auto segments = RenderChat(chat);
  ASSERT_TRUE(segments.ok());
  ASSERT_EQ(segments->size(), 7u);
  EXPECT_FALSE((*segments)[2].is_control);
  EXPECT_EQ((*segments)[2].text, "user name=user\n<end_of_sentence>");
  EXPECT_TRUE((*segments)[3].is_control);
}

TEST(ChatTemplateTest, NamesTheBadFieldByItsPath) {
  Chat chat;
  chat.messages.push_back(
      {.role = ChatRole::kTool, .text = "7", .tool_calls = {}, .tool_name = {}});
  EXPECT_EQ(NormalizeChat(chat).status().message(),
            "messages[0].tool_name: required for a TOOL message");
  chat.messages[0] = {
      .role = ChatRole::kAssistant, .text = "", .tool_calls = {{"f", "[]"}}, .tool_name = {}};
  EXPECT_EQ(NormalizeChat(chat).status().message(),
            "messages[0].tool_calls[0].arguments_json: not a JSON object");
  chat.messages.clear();
  chat.tools.push_back({.name = "f", .description = {}, .parameters_json = "{\"x\": NaN}"});
  EXPECT_EQ(NormalizeChat(chat).status().message(),
            "tools[0].parameters_json: not valid JSON: expected a value at byte 6");
}

TEST(ChatTemplateTest, EncodesControlTokensByNameAndTextAsRuns) {
  PromptEncoder encoder;
  std::vector<std::string> runs;
  encoder.encode_text = [&runs](absl::string_view text) {
    runs.emplace_back(text);
    return std::vector<int32_t>{7, 8};
  };
  encoder.special_token_id = [](absl::string_view name) -> std::optional<int32_t> {
    if (name == "<begin_of_document>") return 1;
    return name == "<beginning_of_sentence>" ? std::optional<int32_t>(2) : std::nullopt;
  };
  EXPECT_EQ(*EncodePrompt(*RenderChat(Chat()), encoder), (std::vector<int32_t>{1, 2, 7, 8}));
  EXPECT_EQ(runs, (std::vector<std::string>{"ai name=assistant\n"}));
  EXPECT_FALSE(EncodePrompt({{.is_control = true, .text = "<unknown>"}}, encoder).ok());
}

}  // namespace
}  // namespace m1
