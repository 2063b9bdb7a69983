// Stop strings in an answer: what is shown, which tokens are kept, on which channels they are.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"

#include "tests/router/answer_deltas.h"
#include "tests/router/text_pieces.h"

namespace m1 {
namespace {

class AnswerStopTest : public testing::Test {
 protected:
  // One token a step.
  void Run(const std::vector<std::string>& texts, AnswerOptions options) {
    builder_.emplace(&pieces_, std::move(options));
    ids_ = pieces_.Ids(texts);
    deltas_ = RunSteps(&*builder_, ids_);
  }
  std::string Content() const { return TextOf(deltas_, OutputChannel::kContent); }
  std::string Reasoning() const { return TextOf(deltas_, OutputChannel::kReasoning); }
  size_t NumKept() const {
    EXPECT_EQ(IdsOf(deltas_).size(), static_cast<size_t>(builder_->num_tokens()));
    return IdsOf(deltas_).size();
  }

  static AnswerOptions Plain(std::vector<std::string> stop_strings) {
    AnswerOptions options;
    options.stop_strings = std::move(stop_strings);
    return options;
  }
  static AnswerOptions Chat(std::vector<std::string> stop_strings) {
    AnswerOptions options = Plain(std::move(stop_strings));
    options.is_chat = true;
    options.tools_enabled = true;
    return options;
  }

  TextPieces pieces_;
  std::optional<AnswerBuilder> builder_;
  std::vector<int32_t> ids_;
  std::vector<AnswerDelta> deltas_;
};

TEST_F(AnswerStopTest, EndsInsideATokenAndDropsWhatFollows) {
  Run({"Hel", "lo wo", "rld", " again"}, Plain({"o w"}));
  EXPECT_EQ(Content(), "Hell");
  EXPECT_EQ(NumKept(), 2U);
  EXPECT_EQ(builder_->matched_stop_string(), "o w");
}

TEST_F(AnswerStopTest, StopTextMayBeIncluded) {
  AnswerOptions options = Plain({"o w"});
  options.include_stop_text = true;
  Run({"Hel", "lo wo", "rld"}, options);
  EXPECT_EQ(Content(), "Hello w");
}

TEST_F(AnswerStopTest, ManyTokensOfOneStepEndAtTheSameToken) {
  AnswerBuilder builder(&pieces_, Plain({"cd"}));
  std::vector<AnswerToken> tokens;
  for (int32_t id : pieces_.Ids({"ab", "c", "d", "e", "f"})) tokens.push_back(Token(id));
  const std::vector<AnswerDelta> deltas = builder.Push(tokens);
  EXPECT_EQ(IdsOf(deltas).size(), 3U);
  EXPECT_EQ(TextOf(deltas, OutputChannel::kContent), "ab");
  EXPECT_TRUE(builder.Finish().empty());
  EXPECT_EQ(builder.num_tokens(), 3);
}

TEST_F(AnswerStopTest, SearchesTheTextBeforeItIsTakenApart) {
  Run({"<think>", "hm", "\n</think>\n\n", "yes", "!"}, Chat({"</think>\n\nyes"}));
  EXPECT_EQ(Reasoning(), "hm\n");  // the tag that would have taken the newline is cut off
  EXPECT_EQ(Content(), "");
  EXPECT_EQ(ChannelsOf(deltas_), "crrc");
  EXPECT_EQ(builder_->num_reasoning_tokens(), 1);
}

TEST_F(AnswerStopTest, CallThatIsCutStaysText) {
  Run({"<tool_calls>\n", "{\"name\": \"f\"}\n", "{\"name\": ", "\"g\"}", "\n</tool_calls>"},
      Chat({"\"g\""}));
  EXPECT_EQ(builder_->num_tool_calls(), 1);
  EXPECT_EQ(Content(), "{\"name\":");
  EXPECT_EQ(ChannelsOf(deltas_), "tttt");
}

TEST_F(AnswerStopTest, CallWaitsWhileAStopStringMayTakeItsEnd) {
  AnswerBuilder builder(&pieces_, Chat({"}\n</tool_calls>!"}));
  int num_calls = 0;
  const auto push = [&](const std::string& text) {
    builder.Push({Token(pieces_.Id(text))});
    return num_calls = builder.num_tool_calls();
  };
  push("<tool_calls>\n{\"name\": \"f\"}");
  EXPECT_EQ(push("\n"), 0);
  EXPECT_EQ(push("</tool_calls>"), 0);
  EXPECT_EQ(push("?"), 1);
  EXPECT_FALSE(builder.matched_stop_string());
}

TEST_F(AnswerStopTest, TheFirstTokensCompleteNoStopString) {
  AnswerOptions options = Plain({"ab", "bc"});
  options.min_new_tokens = 2;
  Run({"a", "b", "c", "d"}, options);
  EXPECT_EQ(Content(), "a");  // "bc" begins in a token that could not end the answer
  EXPECT_EQ(NumKept(), 3U);
  options.min_new_tokens = 3;
  Run({"a", "b", "c", "d"}, options);
  EXPECT_EQ(Content(), "abcd");
  EXPECT_FALSE(builder_->matched_stop_string());
}

// What an earlier stream of the request held back comes out, or is found, in this one; the tokens
// of both count as the first ones.
TEST_F(AnswerStopTest, AStopStringThatAnEarlierStreamBegan) {
  for (const int32_t min_new_tokens : {0, 2, 3}) {
    AnswerOptions options = Plain({"abc"});
    options.min_new_tokens = min_new_tokens;
    builder_.emplace(&pieces_, options);
    builder_->GoOnAfter(pieces_.Ids({"x", "ab"}));
    deltas_ = RunSteps(&*builder_, pieces_.Ids({"c", "d"}));
    const bool matches = min_new_tokens < 3;
    EXPECT_EQ(builder_->matched_stop_string().has_value(), matches);
    EXPECT_EQ(Content(), matches ? "" : "abcd");
    EXPECT_EQ(NumKept(), matches ? 1U : 2U);
  }
}

TEST_F(AnswerStopTest, StopTokensAndControlTokensShowNothingToFind) {
  AnswerOptions options = Plain({"ab", "<control>"});
  options.stop_token_ids = {pieces_.Id("b")};
  builder_.emplace(&pieces_, options);
  deltas_ = RunSteps(&*builder_, {pieces_.Id("a"), -1, pieces_.Id("b")});
  EXPECT_EQ(Content(), "a");
  EXPECT_FALSE(builder_->matched_stop_string());
}

TEST_F(AnswerStopTest, ControlTokensDoNotSeparate) {
  builder_.emplace(&pieces_, Plain({"ab"}));
  deltas_ = RunSteps(&*builder_, {pieces_.Id("xa"), -1, pieces_.Id("b")});
  EXPECT_EQ(Content(), "x");
  EXPECT_EQ(NumKept(), 3U);
}

TEST_F(AnswerStopTest, HalfCharactersAreFoundAsTheyAreShown) {
  Run({"a\xE2\x82", "\xAC!"}, Plain({"\xE2\x82\xAC"}));
  EXPECT_EQ(Content(), "a");
  EXPECT_EQ(NumKept(), 2U);
  Run({"a\xE2\x82", "b"}, Plain({"\uFFFDb"}));
  EXPECT_EQ(Content(), "a");
}

TEST_F(AnswerStopTest, ACharacterThatStaysUnfinishedIsFoundAtTheEnd) {
  Run({"a", "\xE2\x82"}, Plain({"\uFFFD"}));
  EXPECT_EQ(Content(), "a");
  EXPECT_EQ(builder_->matched_stop_string(), "\uFFFD");
  Run({"STOP\xE2\x82", "x"}, Plain({"STOP"}));
  EXPECT_EQ(Content(), "");
}

// --- Against the rules, word for word ---

struct Expected {
  std::vector<int32_t> ids;
  std::string shown;
  std::optional<std::string> matched;
};

// The shown text of whole prefixes of the answer, searched again from its beginning for each token.
Expected PlainRules(const TextPieces& pieces, const std::vector<int32_t>& ids,
                    const AnswerOptions& options) {
  const auto text_of = [&](size_t count, bool at_end) {
    Utf8Stream utf8;
    std::string text;
    for (size_t i = 0; i < count; ++i) {
      if (!pieces.IsSpecial(ids[i])) text += utf8.Push(pieces.Bytes(ids[i]));
    }
    return at_end ? text + utf8.End() : text;
  };
  size_t num_searched = 0;
  for (size_t count = 1; count <= ids.size() + 1; ++count) {
    const size_t num_tokens = std::min(count, ids.size());
    const std::string text = text_of(num_tokens, /*at_end=*/count > ids.size());
    for (size_t end = num_searched + 1; end <= text.size(); ++end) {
      std::optional<std::string> longest;
      for (const std::string& stop : options.stop_strings) {
        const bool ends = absl::EndsWith(absl::string_view(text).substr(0, end), stop);
        if (ends && (!longest || stop.size() > longest->size())) longest = stop;
      }
      if (!longest || num_tokens <= static_cast<size_t>(options.min_new_tokens)) continue;
      const size_t num_shown = options.include_stop_text ? end : end - longest->size();
      return {{ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(num_tokens)},
              text.substr(0, num_shown),
              longest};
    }
    num_searched = text.size();
  }
  return {ids, text_of(ids.size(), true), std::nullopt};
}

class RandomAnswers {
 public:
  explicit RandomAnswers(uint32_t seed) : random_(seed) {}

  size_t Below(size_t bound) { return random_() % bound; }
  std::vector<int32_t> Ids() {
    std::vector<int32_t> ids;
    if (Below(2) == 0) ids = pieces_.Ids({"<thi", "nk>", "a"});
    for (size_t i = Below(16); i > 0; --i) {
      ids.push_back(static_cast<int32_t>(Below(static_cast<size_t>(pieces_.size()) + 1)) - 1);
    }
    return ids;
  }
  AnswerOptions Options(const std::vector<int32_t>& ids) {
    AnswerOptions options;
    options.is_chat = Below(4) != 0;
    options.tools_enabled = Below(2) == 0;
    options.include_stop_text = Below(3) == 0;
    options.min_new_tokens = static_cast<int32_t>(Below(3) == 0 ? Below(8) : 0);
    std::string text;
    for (int32_t id : ids) text += std::string(pieces_.Bytes(id));
    for (size_t i = Below(4); i > 0 && !text.empty(); --i) {
      const std::string stop = text.substr(Below(text.size()), 1 + Below(10));
      if (IsValidUtf8(stop)) options.stop_strings.push_back(stop);
    }
    if (Below(20) == 0) options.stop_strings.emplace_back("\uFFFD");
    return options;
  }
  const TextPieces& pieces() const { return pieces_; }

 private:
  std::mt19937 random_;
  TextPieces pieces_{{"a",
                      "b",
                      "ab",
                      "ba",
                      "\n",
                      " ",
                      "<thi",
                      "nk>",
                      "</th",
                      "ink>\n\n",
                      "\n</think>",
                      "<tool_calls>\n",
                      "{\"name\": \"f\"}",
                      "\n</tool_",
                      "calls>",
                      "\xE2\x82",
                      "\xAC",
                      "\xC3\xA9",
                      "\xFF",
                      "",
                      "</think>a<tool_calls>"}};
};

TEST(AnswerStopPropertyTest, EqualsThePlainRulesHoweverTheTokensCome) {
  RandomAnswers random(11);
  const TextPieces& pieces = random.pieces();
  int num_matched = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::vector<int32_t> ids = random.Ids();
    const AnswerOptions options = random.Options(ids);
    SCOPED_TRACE(absl::StrJoin(ids, " ") + " stops: " + absl::StrJoin(options.stop_strings, "|"));
    AnswerBuilder builder(&pieces, options);
    std::vector<AnswerDelta> deltas;
    const auto append = [&deltas](std::vector<AnswerDelta> more) {
      for (AnswerDelta& delta : more) deltas.push_back(std::move(delta));
    };
    for (size_t at = 0; at < ids.size() && !builder.matched_stop_string();) {
      std::vector<AnswerToken> step;
      for (size_t n = 1 + random.Below(4); n > 0 && at < ids.size(); --n) {
        step.push_back(Token(ids[at++]));
      }
      append(builder.Push(std::move(step)));
    }
    append(builder.Finish());

    const Expected expected = PlainRules(pieces, ids, options);
    ASSERT_EQ(IdsOf(deltas), expected.ids);
    ASSERT_EQ(builder.matched_stop_string(), expected.matched);
    num_matched += expected.matched ? 1 : 0;
    // Tokens and thought as if nothing were cut, text as if the answer ended there.
    AnswerOptions uncut = options;
    uncut.stop_strings.clear();
    AnswerBuilder without(&pieces, uncut);
    ASSERT_EQ(ChannelsOf(deltas), ChannelsOf(RunSteps(&without, expected.ids)));
    ASSERT_EQ(builder.num_reasoning_tokens(), without.num_reasoning_tokens());
    if (!options.is_chat) {
      ASSERT_EQ(TextOf(deltas, OutputChannel::kContent), expected.shown);
      continue;
    }
    OutputParser parser(options.tools_enabled);
    std::vector<OutputEvent> events = parser.Feed(expected.shown).events;
    for (OutputEvent& event : parser.Finish().events) events.push_back(std::move(event));
    std::string content;
    std::string reasoning;
    int num_calls = 0;
    for (const OutputEvent& event : events) {
      if (event.channel == OutputChannel::kContent) content += event.text;
      if (event.channel == OutputChannel::kReasoning) reasoning += event.text;
      if (event.channel == OutputChannel::kToolCall) ++num_calls;
    }
    ASSERT_EQ(TextOf(deltas, OutputChannel::kContent), content);
    ASSERT_EQ(TextOf(deltas, OutputChannel::kReasoning), reasoning);
    ASSERT_EQ(builder.num_tool_calls(), num_calls);
  }
  EXPECT_GT(num_matched, 5000);
}

// A stream breaks after any token; another one goes on and is told what the first one has said.
TEST(AnswerStopPropertyTest, ABrokenStreamGoesOnAsIfItHadNotBroken) {
  RandomAnswers random(12);
  const TextPieces& pieces = random.pieces();
  int num_matched = 0;
  for (int round = 0; round < 5000; ++round) {
    const std::vector<int32_t> ids = random.Ids();
    AnswerOptions options = random.Options(ids);
    options.is_chat = false;  // chats have no ids to go on from
    SCOPED_TRACE(absl::StrJoin(ids, " ") + " stops: " + absl::StrJoin(options.stop_strings, "|"));
    const Expected expected = PlainRules(pieces, ids, options);
    for (size_t num_said = 0; num_said <= expected.ids.size(); ++num_said) {
      const std::vector<int32_t> said(ids.begin(),
                                      ids.begin() + static_cast<std::ptrdiff_t>(num_said));
      AnswerBuilder first(&pieces, options);
      std::string text;
      for (int32_t id : said) text += TextOf(first.Push({Token(id)}), OutputChannel::kContent);
      AnswerBuilder second(&pieces, options);
      second.GoOnAfter(said);
      const std::vector<AnswerDelta> rest =
          RunSteps(&second, {ids.begin() + static_cast<std::ptrdiff_t>(num_said), ids.end()});
      ASSERT_EQ(text + TextOf(rest, OutputChannel::kContent), expected.shown) << num_said;
      ASSERT_EQ(IdsOf(rest).size(), expected.ids.size() - num_said);
      ASSERT_EQ(second.matched_stop_string(), expected.matched);
    }
    num_matched += expected.matched ? 1 : 0;
  }
  EXPECT_GT(num_matched, 1000);
}

}  // namespace
}  // namespace m1
