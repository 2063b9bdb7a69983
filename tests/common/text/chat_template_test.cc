#include "common/text/chat_template.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/text/python_json.h"
#include "tests/common/text/golden_rows.h"

namespace m1 {
namespace {

std::vector<JsonValue> ReadRows() {
  return ReadJsonLines("tests/golden/minimax-m1/chat_template.jsonl");
}

TEST(ChatTemplateTest, EqualsTheReferenceOnEveryRow) {
  const std::vector<JsonValue> rows = ReadRows();
  ASSERT_EQ(rows.size(), 72u);
  for (const JsonValue& row : rows) {
    const auto rendered = RenderTemplate(TemplateInputOf(row));
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
