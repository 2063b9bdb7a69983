#include "common/text/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "nlohmann/json.hpp"

#include "common/text/unicode_pattern.h"
#include "tests/common/text/real_tokenizer.h"

namespace m1 {
namespace {

std::vector<std::string> Pieces(const std::vector<std::string>& patterns, std::string_view text) {
  const auto pre_tokenizer = PreTokenizer::Create(patterns);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  if (!pre_tokenizer.ok()) return {};
  std::vector<std::string> pieces;
  const absl::Status status =
      pre_tokenizer->Split(text, [&pieces](std::string_view piece) { pieces.emplace_back(piece); });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
  } else {
    if (code_point < 0x10000) {
      put(0xE0 | code_point >> 12);
    } else {
      put(0xF0 | code_point >> 18);
      put(0x80 | (code_point >> 12 & 0x3F));
    }
    put(0x80 | (code_point >> 6 & 0x3F));
  }
  put(0x80 | (code_point & 0x3F));
}

TEST(PreTokenizerTest, CutsAsGpt2Does) {
  EXPECT_EQ(
      Pieces({std::string(kGpt2Pattern)}, "Hello world, it's 2024!!  \n x"),
      (std::vector<std::string>{"Hello", " world", ",", " it", "'s", " 2024", "!!", "  \n", " x"}));
}

TEST(PreTokenizerTest, WithoutPatternsTextIsOnePiece) {
  EXPECT_EQ(Pieces({}, "a b"), (std::vector<std::string>{"a b"}));
  EXPECT_EQ(Pieces({}, ""), (std::vector<std::string>{}));
}

TEST(PreTokenizerTest, WhatLiesBetweenMatchesIsAPiece) {
  EXPECT_EQ(Pieces({"[0-9]+"}, "ab12cd3"), (std::vector<std::string>{"ab", "12", "cd", "3"}));
}

TEST(PreTokenizerTest, LaterPatternsCutThePiecesOfEarlierOnes) {
  // The second pattern's lookahead sees the end of its piece, not the text behind it.
  EXPECT_EQ(Pieces({"[0-9]+", "b(?!1)|[0-9]"}, "ab12b1"),
            (std::vector<std::string>{"a", "b", "1", "2", "b", "1"}));
}

TEST(PreTokenizerTest, EscapesMeanWhatTheReferenceMeans) {
  EXPECT_EQ(Pieces({R"(\d+)"}, "a\u0663\u00bd"),
            (std::vector<std::string>{"a", "\u0663", "\u00bd"}));
  EXPECT_EQ(Pieces({R"(\S+)"}, "a\u180eb c"), (std::vector<std::string>{"a\u180eb", " ", "c"}));
  EXPECT_EQ(Pieces({R"([\u4e00-\x{9fff}]+)"}, "a中文b"),
            (std::vector<std::string>{"a", "中文", "b"}));
  EXPECT_EQ(Pieces({R"(\P{L}+)"}, "a12b"), (std::vector<std::string>{"a", "12", "b"}));
  EXPECT_EQ(Pieces({R"(.+)"}, "ab\r\nc"), (std::vector<std::string>{"ab\r", "\n", "c"}));
  EXPECT_EQ(Pieces({R"((?i:'S)|a++|b{2}|c{1,}?|d{0,2}d)"}, "'s'Saabbccdd"),
            (std::vector<std::string>{"'s", "'S", "aa", "bb", "c", "c", "dd"}));
}

// Over all code points, so also those that PCRE2's Unicode lacks.
TEST(PreTokenizerTest, ClassesAreThoseOfTheReference) {
  const auto classes =
      nlohmann::json::parse(ReadWholeFile("tests/golden/minimax-m1/unicode_classes.json"));
  const std::vector<std::pair<std::string, std::vector<std::string>>> patterns = {
      {R"([\p{Lu}\p{Lt}])", {"upper"}},
      {R"(\p{Ll})", {"lower"}},
      {R"([\p{Lm}\p{Lo}])", {"other_letter"}},
      {R"(\p{M})", {"mark"}},
      {R"(\p{N})", {"number"}},
      {R"(\s)", {"space"}},
      {R"([\p{L}])", {"upper", "lower", "other_letter"}}};
  constexpr char kSeparator = '\x01';  // in no class; stands before each other character
  std::string text;
  absl::flat_hash_map<std::string, uint32_t> code_points;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xD800 && c < 0xE000) || c == kSeparator) continue;
    std::string character;
    AppendUtf8(c, &character);
    text += kSeparator + character;
    code_points[character] = c;
  }
  for (const auto& [pattern, names] : patterns) {
    std::vector<bool> expected(0x110000, false);
    for (const std::string& name : names) {
      for (const auto& range : classes.at(name)) {
        for (uint32_t c = range.at(0); c <= range.at(1).get<uint32_t>(); ++c) expected[c] = true;
      }
    }
    std::vector<bool> found(0x110000, false);
    for (const std::string& piece : Pieces({pattern}, text)) {
      if (piece[0] == kSeparator) continue;  // what lies between two members
      found[code_points.at(piece)] = true;
    }
    int num_different = 0;
    for (size_t c = 0; c < found.size(); ++c) num_different += found[c] != expected[c] ? 1 : 0;
    EXPECT_EQ(num_different, 0) << pattern;
  }
}

// The recorded ids would not show it: no merge crosses these cuts.
TEST(PreTokenizerTest, LettersNewerThanPcre2JoinWords) {
  const std::string word = R"([^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+)";
  EXPECT_EQ(Pieces({word}, "\U0001e030\U0001e031a").size(), 1u);
  EXPECT_EQ(Pieces({word}, "\U00016d40\U00016d41 \U00016d40").size(), 2u);
  EXPECT_EQ(Pieces({word}, "\u180e!"), (std::vector<std::string>{"\u180e!"}));
}

TEST(PreTokenizerTest, NegatedClassesAndComplementsExcludeNewCharacters) {
  // U+10D4A is a letter since Unicode 16.
  EXPECT_EQ(Pieces({R"([^\s\p{L}]+)"}, "!\U00010d4a!").size(), 3u);
  EXPECT_EQ(Pieces({R"(\P{L}+)"}, "!\U00010d4a!").size(), 3u);
}

TEST(PreTokenizerTest, RefusesWhatTheEnginesReadDifferently) {
  for (const char* pattern :
       {R"(\w+)",     R"(\bx)",        R"(\h)",     R"(\v)",         R"(\Ax)",      R"(\1)",
        R"(\p{Han})", R"(\p{^L})",     R"(\pL)",    R"(\p{Mn})",     R"(\p{Cn})",   R"([\P{L}])",
        R"([[a]b])",  R"([a&&b])",     R"([])",     R"([^])",        R"([a)",       R"([\s-a])",
        R"([a-\s])",  R"(x{,3})",      R"(x{a})",   R"(x{1)",        R"(x{2}?)",    R"(x{2}+)",
        R"(x**)",     R"((?i)x)",      R"((?m:x))", R"((?<name>x))", R"((?P<n>x))", R"((*UTF)x)",
        R"((x)",      R"(x))",         R"(^x)",     R"(x$)",         R"(\)",        R"(\x{zz})",
        R"(\u12)",    R"((?i:\p{L}))", R"(x]y)",    R"(\Qx\E)",      R"((?R))",     R"((?1))",
        R"(\K)",      R"(\C)"}) {
    const auto translated = TranslatePattern(pattern);
    EXPECT_EQ(translated.status().code(), absl::StatusCode::kDataLoss) << pattern;
    EXPECT_TRUE(absl::StrContains(translated.status().message(), "is not supported"))
        << translated.status();
  }
}

TEST(PreTokenizerTest, RefusesPatternsThatPcre2Refuses) {
  const std::vector<std::string> patterns = {"a{2,1}",
                                             "[b-a]",
                                             R"(\x{110000})",
                                             "?",
                                             R"((?<=a+)b)",
                                             "a*",
                                             "a|",
                                             "(?=a)",
                                             "(?:a{9999}){9999}",
                                             std::string(300, '(') + "a" + std::string(300, ')'),
                                             std::string(100'000, 'a')};
  for (const std::string& pattern : patterns) {
    EXPECT_EQ(PreTokenizer::Create({pattern}).status().code(), absl::StatusCode::kDataLoss)
        << pattern.substr(0, 40);
  }
  EXPECT_EQ(PreTokenizer::Create(std::vector<std::string>(9, "a")).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(PreTokenizerTest, GivesUpOnExponentialPatterns) {
  const auto pre_tokenizer = PreTokenizer::Create({"(?:a|aa)+[bd]"});
  ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  const absl::Status status =
      pre_tokenizer->Split(std::string(200, 'a') + "c", [](std::string_view) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

}  // namespace
}  // namespace m1
