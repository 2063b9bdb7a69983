#include "common/text/output_parser.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/text/python_json.h"

namespace m1 {
namespace {

struct Result {
  std::vector<OutputEvent> events;  // neighbours merged
  std::string channels;             // one letter a byte: c, r, t
  bool has_reasoning = false;
};

void Append(const ParsedOutput& output, Result* result) {
  for (const OutputEvent& event : output.events) {
    const bool merge = !result->events.empty() && event.channel != OutputChannel::kToolCall &&
                       result->events.back().channel == event.channel;
    if (merge) {
      result->events.back().text += event.text;
    } else {
      result->events.push_back(event);
    }
  }
  for (const ChannelRun& run : output.channels) {
    result->channels.append(static_cast<size_t>(run.num_bytes),
                            "crt"[static_cast<int>(run.channel)]);
  }
}

// `cuts` are byte offsets in ascending order.
Result Parse(const std::string& text, bool tools_enabled, const std::vector<size_t>& cuts) {
  OutputParser parser(tools_enabled);
  Result result;
  size_t begin = 0;
  for (size_t cut : cuts) {
    Append(parser.Feed(absl::string_view(text).substr(begin, cut - begin)), &result);
    EXPECT_LE(result.channels.size(), cut);
    begin = cut;
  }
  Append(parser.Feed(absl::string_view(text).substr(begin)), &result);
  Append(parser.Finish(), &result);
  result.has_reasoning = parser.has_reasoning();
  return result;
}

std::vector<std::string> Printed(const std::vector<OutputEvent>& events) {
  std::vector<std::string> lines;
  for (const OutputEvent& event : events) {
    const std::string name = event.channel == OutputChannel::kContent ? "content" : "reasoning";
    lines.push_back(event.channel == OutputChannel::kToolCall
                        ? "tool_call " + PythonJsonString(event.name) + " " + event.arguments_json
                        : name + " " + event.text);
  }
  return lines;
}

struct Row {
  std::string name;
  std::string text;
  bool tools_enabled = false;
  bool has_reasoning = false;
  std::vector<std::string> events;
};

std::vector<Row> ReadRows() {
  std::ifstream file("tests/golden/minimax-m1/parse.jsonl");
  std::vector<Row> rows;
  for (std::string line; std::getline(file, line);) {
    const absl::StatusOr<JsonValue> json = ParseJson(line, 200);
    EXPECT_TRUE(json.ok()) << json.status();
    if (!json.ok()) continue;
    Row& row = rows.emplace_back();
    row.name = json->Find("name")->text;
    row.text = json->Find("text")->text;
    row.tools_enabled = json->Find("tools_enabled")->text == "true";
    row.has_reasoning = json->Find("reasoning")->kind == JsonValue::Kind::kString;
    for (const JsonValue& event : json->Find("events")->items) {
      const JsonValue& value = event.items[1];
      row.events.push_back(event.items[0].text == "tool_call"
                               ? "tool_call " + PythonJsonString(value.Find("name")->text) + " " +
                                     PrintPythonJson(*value.Find("arguments"))
                               : event.items[0].text + " " + value.text);
    }
  }
  return rows;
}

// Where a character starts, without 0.
std::vector<size_t> CharacterStarts(const std::string& text) {
  std::vector<size_t> starts;
  for (size_t i = 1; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) starts.push_back(i);
  }
  return starts;
}

void ExpectRow(const Row& row, const std::vector<size_t>& cuts, const std::string& channels) {
  const Result result = Parse(row.text, row.tools_enabled, cuts);
  EXPECT_EQ(Printed(result.events), row.events) << row.name;
  EXPECT_EQ(result.has_reasoning, row.has_reasoning) << row.name;
  EXPECT_EQ(result.channels.size(), row.text.size()) << row.name;
  EXPECT_EQ(result.channels, channels) << row.name;
}

TEST(OutputParserTest, EqualsTheReferenceForEveryCut) {
  std::mt19937 random(1);
  const std::vector<Row> rows = ReadRows();
  ASSERT_EQ(rows.size(), 77u);
  for (const Row& row : rows) {
    const std::string channels = Parse(row.text, row.tools_enabled, {}).channels;
    const std::vector<size_t> starts = CharacterStarts(row.text);
    ExpectRow(row, {}, channels);
    ExpectRow(row, starts, channels);
    for (size_t start : starts) ExpectRow(row, {start}, channels);
    for (int i = 0; i < 20; ++i) {
      std::vector<size_t> cuts;
      for (size_t start : starts) {
        if (random() % 4 == 0) cuts.push_back(start);
      }
      ExpectRow(row, cuts, channels);
    }
  }
}

TEST(OutputParserTest, TellsTheChannelOfEveryByte) {
  EXPECT_EQ(Parse("\n<think>\na\n</think>\nb", true, {}).channels, "ccccccccrrrcccccccccc");
  EXPECT_EQ(Parse("<think>a</th", true, {}).channels, "cccccccrrrrr");
  EXPECT_EQ(Parse("a <tool_calls>x</tool_calls> b", true, {}).channels,
            "cc" + std::string(26, 't') + "cc");
  EXPECT_EQ(Parse("a <tool_calls>", false, {}).channels, std::string(14, 'c'));
}

TEST(OutputParserTest, ShowsTextAndChannelsWithoutDelay) {
  OutputParser parser(true);
  EXPECT_EQ(Printed(parser.Feed("<think>\nab").events), (std::vector<std::string>{"reasoning ab"}));
  EXPECT_TRUE(parser.in_reasoning());
  EXPECT_TRUE(parser.Feed("</thin").channels.empty());
  EXPECT_EQ(parser.Feed("k>").channels[0].num_bytes, 8);
  EXPECT_FALSE(parser.in_reasoning());
  EXPECT_EQ(Printed(parser.Feed("x<tool_calls>\n{\"name\": \"f\"}\n").events),
            (std::vector<std::string>{"content x", "tool_call \"f\" {}"}));
}

TEST(OutputParserTest, TakesLinearTime) {
  for (const char* unit :
       {"<tool_cal", "</think", " \n", "<think>", "<tool_calls>x\n</tool_calls>", "\\\""}) {
    std::string text = "<think></think><tool_calls>";
    while (text.size() < 1000000) text += unit;
    EXPECT_EQ(Parse(text, true, CharacterStarts(text)).channels.size(), text.size());
  }
}

}  // namespace
}  // namespace m1
