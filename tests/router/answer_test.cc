// From tokens to deltas, on the golden answers cut into tokens of every size.
#include <gmock/gmock.h>

#include <fstream>

#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

#include "tests/router/answer_deltas.h"

namespace m1 {
namespace {

using testing::IsEmpty;

constexpr int32_t kEos = 1000000;
constexpr int32_t kOtherControl = 1000001;

// Tokens made up on the fly: id i is the i-th piece that was added.
class PieceTable final : public TokenPieces {
 public:
  int32_t Add(const std::string& piece) {
    pieces_.push_back(piece);
    return static_cast<int32_t>(pieces_.size()) - 1;
  }
  absl::string_view Bytes(int32_t id) const override {
    if (id == kEos) return "<eos>";
    if (id == kOtherControl) return "<control>";
    return id >= 0 && id < static_cast<int32_t>(pieces_.size())
               ? absl::string_view(pieces_[static_cast<size_t>(id)])
               : absl::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id == kEos || id == kOtherControl; }

 private:
  std::vector<std::string> pieces_;
};

std::vector<int32_t> Cut(const std::string& text, size_t length, PieceTable* pieces) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size(); i += length)
    ids.push_back(pieces->Add(text.substr(i, length)));
  return ids;
}

class AnswerGoldenTest : public testing::TestWithParam<size_t> {};

TEST_P(AnswerGoldenTest, ChannelsEqualTheGoldenParse) {
  std::ifstream file("tests/golden/minimax-m1/parse.jsonl");
  std::string line;
  int num_lines = 0;
  while (std::getline(file, line)) {
    const nlohmann::json golden = nlohmann::json::parse(line);
    const std::string text = golden["text"];
    SCOPED_TRACE(golden["name"].get<std::string>());
    PieceTable pieces;
    std::vector<int32_t> ids = Cut(text, GetParam(), &pieces);
    ids.push_back(kEos);
    AnswerBuilder builder(
        &pieces,
        {.is_chat = true, .tools_enabled = golden["tools_enabled"], .stop_token_ids = {kEos}});

    const std::vector<AnswerDelta> deltas = RunSteps(&builder, ids);

    EXPECT_EQ(IdsOf(deltas), ids);
    const std::string reasoning =
        golden["reasoning"].is_null() ? "" : golden["reasoning"].get<std::string>();
    EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), reasoning);
    EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), golden["content"].get<std::string>());
    size_t num_calls = 0;
    for (const AnswerDelta& delta : deltas) {
      if (!delta.tool_call) continue;
      ASSERT_LT(num_calls, golden["tool_calls"].size());
      const nlohmann::json& call = golden["tool_calls"][num_calls++];
      EXPECT_EQ(delta.tool_call->name, call["name"].get<std::string>());
      EXPECT_EQ(nlohmann::json::parse(delta.tool_call->arguments_json), call["arguments"]);
    }
    EXPECT_EQ(num_calls, golden["tool_calls"].size());
    EXPECT_EQ(builder.num_tool_calls(), static_cast<int32_t>(num_calls));
    EXPECT_EQ(builder.num_tokens(), static_cast<int32_t>(ids.size()));
    ++num_lines;
  }
  EXPECT_EQ(num_lines, 77);
}

INSTANTIATE_TEST_SUITE_P(TokenLengths, AnswerGoldenTest, testing::Values(1, 2, 3, 5, 8, 100000));

class AnswerTest : public testing::Test {
 protected:
  std::vector<AnswerDelta> RunPieces(const std::vector<std::string>& texts, bool is_chat = true) {
    builder_.emplace(
        &pieces_,
        AnswerOptions{.is_chat = is_chat, .tools_enabled = true, .stop_token_ids = {kEos}});
    std::vector<int32_t> ids;
    for (const std::string& text : texts) {
      ids.push_back(text == "EOS" ? kEos : text == "CONTROL" ? kOtherControl : pieces_.Add(text));
    }
    const std::vector<AnswerDelta> deltas = RunSteps(&*builder_, ids);
    EXPECT_EQ(IdsOf(deltas), ids);
    return deltas;
  }

  PieceTable pieces_;
  std::optional<AnswerBuilder> builder_;
};

TEST_F(AnswerTest, TokenBelongsToTheChannelOfItsFirstByte) {
  const auto deltas = RunPieces({"<", "think", ">", "\na", "b\n</", "think", ">\nok", "EOS"});
  EXPECT_EQ(ChannelsOf(deltas), "cccrrccc");
  // "\na" alone: the next token carries a byte of the closing tag.
  EXPECT_EQ(builder_->num_reasoning_tokens(), 1);
}

TEST_F(AnswerTest, TokenThatCompletesTheOpeningTagIsNoReasoning) {
  const auto deltas = RunPieces({"<think>\nfirst", " second", "</think>", "x"});
  EXPECT_EQ(ChannelsOf(deltas), "crcc");
  EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), "first second");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 1);
}

TEST_F(AnswerTest, PartialTagThatDoesNotCloseIsReasoning) {
  const auto deltas = RunPieces({"<think>", "a", "</", "thin", "g>", "</think>", "b"});
  EXPECT_EQ(ChannelsOf(deltas), "crrrrcc");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 4);
}

TEST_F(AnswerTest, HalfCharactersWaitAndBadBytesAreReplaced) {
  const auto deltas =
      RunPieces({"<think>", "\xC3", "\xA9", "\xE2\x82", "x", "\xFF", "</think>", "\xF0\x9F"});
  EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), "\u00e9\uFFFDx\uFFFD");
  EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), "\uFFFD");
  EXPECT_EQ(ChannelsOf(deltas), "crrrrrcc");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 5);
}

// The first byte of the second token makes the held byte bad and is itself part of the tag.
TEST_F(AnswerTest, BadByteBeforeATagKeepsOffsets) {
  const auto deltas = RunPieces({"<think>", "a\xC3", "</think>", "b"});
  EXPECT_EQ(ChannelsOf(deltas), "crcc");
  EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), "a\uFFFD");
}

TEST_F(AnswerTest, ThreeHeldBytesThenATag) {
  const auto deltas = RunPieces({"<think>", "\xF0\x9F\x98", "</think>", "a"});
  EXPECT_EQ(ChannelsOf(deltas), "crcc");
  EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), "\uFFFD");
}

TEST_F(AnswerTest, ControlTokensShowNothingAndDoNotBreakACharacter) {
  const auto deltas = RunPieces({"<think>", "\xC3", "CONTROL", "\xA9", "</think>", "x", "EOS"});
  EXPECT_EQ(TextOf(deltas, OutputChannel::kReasoning), "\u00e9");
  EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), "x");
  EXPECT_EQ(ChannelsOf(deltas), "crrrccc");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 3);
}

// The first half of a character came in an earlier stream of the request.
TEST_F(AnswerTest, AnAnswerGoesOnInsideACharacter) {
  AnswerBuilder builder(&pieces_, AnswerOptions{});
  builder.GoOnAfter(std::vector<int32_t>{pieces_.Add("a"), pieces_.Add("\xC3")});
  const std::vector<AnswerDelta> deltas =
      RunSteps(&builder, {pieces_.Add("\xA9"), pieces_.Add("b")});
  EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), "\u00e9b");
  EXPECT_EQ(builder.num_tokens(), 2);
}

TEST_F(AnswerTest, EmptyTokensAreInOneDeltaToo) {
  const auto deltas = RunPieces({"", "<think>", "", "a", ""});
  EXPECT_EQ(ChannelsOf(deltas), "ccrrr");
}

TEST_F(AnswerTest, ToolCallComesWithItsTokens) {
  const auto deltas = RunPieces({"Hi", "<tool_calls>\n", "{\"name\": \"f\", ", "\"arguments\": {}}",
                                 "\n", "</tool_calls>", "EOS"});
  int num_calls = 0;
  for (const AnswerDelta& delta : deltas) {
    if (delta.tool_call) {
      ++num_calls;
      EXPECT_EQ(delta.channel, OutputChannel::kToolCall);
    }
  }
  EXPECT_EQ(num_calls, 1);
  EXPECT_EQ(ChannelsOf(deltas).substr(0, 6), "cttttt");
}

TEST_F(AnswerTest, PlainAnswerIsAllContent) {
  const auto deltas =
      RunPieces({"<think>", "a\xC3", "CONTROL", "\xA9", "</think>\n", "\xE2", "EOS"},
                /*is_chat=*/false);
  EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), "<think>a\u00e9</think>\n\uFFFD");
  EXPECT_EQ(ChannelsOf(deltas), "ccccccc");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 3);  // counted all the same
}

TEST_F(AnswerTest, ManyTokensInOneStepEqualOneByOne) {
  const std::string text =
      "<think>\nlong \xE2\x82\xAC thought\n</think>\n\nanswer <tool_calls>\n{\"name\": \"f\"}\n"
      "</tool_calls> tail";
  for (size_t length : {1U, 2U, 3U, 7U}) {
    PieceTable pieces;
    const std::vector<int32_t> ids = Cut(text, length, &pieces);
    const AnswerOptions options{.is_chat = true, .tools_enabled = true, .stop_token_ids = {}};
    AnswerBuilder one(&pieces, options);
    AnswerBuilder all(&pieces, options);
    const std::vector<AnswerDelta> by_one = RunSteps(&one, ids);
    std::vector<AnswerToken> tokens;
    for (int32_t id : ids) tokens.push_back(Token(id));
    std::vector<AnswerDelta> at_once = all.Push(tokens);
    for (AnswerDelta& delta : all.Finish()) at_once.push_back(std::move(delta));
    EXPECT_EQ(ChannelsOf(by_one), ChannelsOf(at_once));
    for (OutputChannel channel : {OutputChannel::kContent, OutputChannel::kReasoning}) {
      EXPECT_EQ(TextOf(by_one, channel), TextOf(at_once, channel));
    }
    EXPECT_EQ(one.num_reasoning_tokens(), all.num_reasoning_tokens());
  }
}

TEST_F(AnswerTest, NothingGeneratedIsNothingShown) {
  EXPECT_THAT(RunPieces({}), IsEmpty());
  EXPECT_THAT(RunPieces({}, /*is_chat=*/false), IsEmpty());
}

}  // namespace
}  // namespace m1
