// Against the definition, spelled out on whole texts with find.
#include "common/text/thought_meter.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace m1 {
namespace {

struct Measured {
  ThoughtState state = ThoughtState::kExpected;
  int32_t num_tokens = 0;
};

Measured Measure(const std::vector<std::string>& tokens) {
  ThoughtMeter meter;
  for (const std::string& token : tokens) meter.Push(token);
  return {meter.state(), meter.num_tokens()};
}

// Tokens that begin after the one that completes <think>, and end before </think> begins.
Measured Define(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  const size_t begin = text.find_first_not_of(" \t\r\n");
  const std::string open = "<think>";
  const std::string seen = begin == std::string::npos ? "" : text.substr(begin, open.size());
  if (seen != open) {
    return {open.compare(0, seen.size(), seen) == 0 ? ThoughtState::kExpected : ThoughtState::kOver,
            0};
  }
  const size_t thought = begin + open.size();
  const size_t close = text.find("</think>", thought);
  Measured measured{close == std::string::npos ? ThoughtState::kOpen : ThoughtState::kOver, 0};
  size_t offset = 0;
  bool is_open = false;    // at the token's begin
  bool meets_tag = false;  // a token carries a byte of </think>
  for (const std::string& token : tokens) {
    const size_t end = offset + token.size();
    if (end > close && close != std::string::npos) meets_tag = true;
    if (is_open && !meets_tag) ++measured.num_tokens;
    offset = end;
    if (offset >= thought) is_open = true;
  }
  return measured;
}

TEST(ThoughtMeterTest, CountsFromTagToTag) {
  EXPECT_EQ(Measure({"<think", ">\n", "a", "b", "</", "think", ">\n\n", "c"}).num_tokens, 2);
  EXPECT_EQ(Measure({"<think>", "a", "b", "\n</", "think>"}).num_tokens, 2);
  EXPECT_EQ(Measure({"<think>a</think>"}).num_tokens, 0);
  EXPECT_EQ(Measure({"<think><", "/think>"}).num_tokens, 0);
}

TEST(ThoughtMeterTest, AnOpenThoughtCountsTheBeginningOfATag) {
  ThoughtMeter meter;
  meter.Push("<think>");
  for (const char* bytes : {"a", "</", "think"}) meter.Push(bytes);
  EXPECT_EQ(meter.state(), ThoughtState::kOpen);
  EXPECT_EQ(meter.num_tokens(), 3);
  meter.Push(">");
  EXPECT_EQ(meter.state(), ThoughtState::kOver);
  EXPECT_EQ(meter.num_tokens(), 1);
}

TEST(ThoughtMeterTest, TokensWithoutTextCountWhereTheyStand) {
  EXPECT_EQ(Measure({"<think>", "", "\xC3", "", "\xA9", "</think>", ""}).num_tokens, 4);
  // Behind the first that carries a byte of the tag.
  EXPECT_EQ(Measure({"<think>", "a", "</thi", "", "nk>"}).num_tokens, 1);
}

TEST(ThoughtMeterTest, OnlyWhatStandsFirstIsAThought) {
  EXPECT_EQ(Measure({" \n", "\t<think>", "a"}).state, ThoughtState::kOpen);
  EXPECT_EQ(Measure({" ", "<thi"}).state, ThoughtState::kExpected);
  for (const char* text : {"x", "<<think>", "< think>", "<think >", "\xC2\xA0<think>"}) {
    EXPECT_EQ(Measure({text, "a"}).state, ThoughtState::kOver) << text;
    EXPECT_EQ(Measure({text, "a"}).num_tokens, 0) << text;
  }
}

TEST(ThoughtMeterTest, EqualsItsDefinitionOnRandomTexts) {
  const std::vector<std::string> parts = {"<think>", "</think>", "<",  "</",      "think",
                                          ">",       "a",        "\n", " ",       "</",
                                          "<t",      "ink>",     "",   "\xE2\x82"};
  std::mt19937 random(1);
  int num_over = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = round % 4 == 0 ? "" : "<think>";
    for (size_t i = random() % 12; i > 0; --i) text += parts[random() % parts.size()];
    std::vector<std::string> tokens;
    while (!text.empty()) {
      const size_t size = std::min<size_t>(text.size(), random() % 5);
      tokens.push_back(text.substr(0, size));
      text.erase(0, size);
    }
    const Measured expected = Define(tokens);
    const Measured measured = Measure(tokens);
    ASSERT_EQ(measured.state, expected.state) << testing::PrintToString(tokens);
    ASSERT_EQ(measured.num_tokens, expected.num_tokens) << testing::PrintToString(tokens);
    if (expected.state == ThoughtState::kOver && expected.num_tokens > 0) ++num_over;
  }
  EXPECT_GT(num_over, 1000);
}

}  // namespace
}  // namespace m1
