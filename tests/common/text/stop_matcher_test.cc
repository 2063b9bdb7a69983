#include "common/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <random>

#include "absl/strings/match.h"

namespace m1 {
namespace {

// The rules, word for word: what is shown of a text that arrives in pieces.
class PlainMatcher {
 public:
  explicit PlainMatcher(std::vector<std::string> stop_strings) : stops_(std::move(stop_strings)) {}

  std::string Push(const std::string& piece, bool may_match = true) {
    for (char c : piece) {
      if (matched_) return Release(text_.size() - matched_->size());
      text_ += c;
      for (const std::string& stop : stops_) {
        const bool is_longer = !matched_ || stop.size() > matched_->size();
        if (may_match && absl::EndsWith(text_, stop) && is_longer) matched_ = stop;
      }
    }
    return Release(text_.size() - (matched_ ? matched_->size() : LongestBeginning()));
  }
  std::string Finish() { return matched_ ? "" : Release(text_.size()); }

  std::optional<std::string> matched_;

 private:
  // Bytes at the end of the text that a stop string begins with, and more of it may come.
  size_t LongestBeginning() const {
    size_t longest = 0;
    for (const std::string& stop : stops_) {
      for (size_t length = 1; length < stop.size(); ++length) {
        if (absl::EndsWith(text_, stop.substr(0, length))) longest = std::max(longest, length);
      }
    }
    return longest;
  }
  std::string Release(size_t end) {
    const std::string released = text_.substr(num_released_, end - num_released_);
    num_released_ = end;
    return released;
  }

  const std::vector<std::string> stops_;
  std::string text_;
  size_t num_released_ = 0;
};

TEST(StopMatcherTest, WithoutStopStringsNothingIsHeld) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Push(""), "");
  EXPECT_EQ(matcher.Finish(), "");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcherTest, HoldsABeginningUntilItIsDecided) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("a ST"), "a ");
  EXPECT_EQ(matcher.Push("ST"), "ST");
  EXPECT_EQ(matcher.Push("OPS"), "");
  EXPECT_EQ(matcher.matched(), "STOP");
  EXPECT_EQ(matcher.cut_text(), "STOPS");
  EXPECT_EQ(matcher.Push("later"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, GivesOutWhatWasHeldAtTheEnd) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("STO"), "");
  EXPECT_EQ(matcher.Finish(), "STO");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcherTest, TheFirstEndCounts) {
  StopMatcher matcher({"abcdef", "cd"});
  EXPECT_EQ(matcher.Push("xabcdef"), "xab");
  EXPECT_EQ(matcher.matched(), "cd");
}

TEST(StopMatcherTest, OfThoseThatEndTogetherTheLongestCounts) {
  StopMatcher matcher({"c", "bc", "abc"});
  EXPECT_EQ(matcher.Push("xab"), "x");
  EXPECT_EQ(matcher.Push("c"), "");
  EXPECT_EQ(matcher.matched(), "abc");
}

TEST(StopMatcherTest, APieceThatMayNotMatchDoesNotHideALaterMatch) {
  StopMatcher matcher({"aa"});
  EXPECT_EQ(matcher.Push("baa", /*may_match=*/false), "ba");
  EXPECT_EQ(matcher.Push("ac"), "");
  EXPECT_EQ(matcher.matched(), "aa");
}

TEST(StopMatcherTest, EqualsThePlainRulesOnRandomTexts) {
  std::mt19937 random(7);
  const auto below = [&random](int bound) {
    return static_cast<size_t>(random() % static_cast<unsigned>(bound));
  };
  // Few letters, so that strings overlap; a character of two bytes.
  const std::vector<std::string> letters = {"a", "b", "\xC3\xA9"};
  const auto random_text = [&](size_t length, int num_letters) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += letters[below(num_letters)];
    return text;
  };
  int num_matched = 0;
  for (int round = 0; round < 30000; ++round) {
    const int num_letters = 1 + static_cast<int>(below(3));
    std::vector<std::string> stops;
    for (size_t i = below(5); i > 0; --i) stops.push_back(random_text(1 + below(8), num_letters));
    const std::string text = random_text(below(40), num_letters);
    StopMatcher matcher(stops);
    PlainMatcher plain(stops);
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min(text.size() - at, below(6));
      const bool may_match = below(4) != 0;
      ASSERT_EQ(matcher.Push(text.substr(at, size), may_match),
                plain.Push(text.substr(at, size), may_match));
      at += size;
    }
    ASSERT_EQ(matcher.Finish(), plain.Finish());
    ASSERT_EQ(matcher.matched(), plain.matched_);
    num_matched += matcher.matched() ? 1 : 0;
  }
  EXPECT_GT(num_matched, 10000);
  EXPECT_LT(num_matched, 25000);
}

// A matcher that looked at the text again for every byte would take minutes.
TEST(StopMatcherTest, TimeIsLinearWhateverTheStringsAre) {
  std::vector<std::string> stops;
  for (size_t i = 0; i < 16; ++i) {
    stops.push_back(std::string(1007 + i, 'a') + "b" + std::string(16 - i, 'a'));
  }
  const std::clock_t start = std::clock();
  StopMatcher matcher(stops);
  size_t num_shown = 0;
  for (int i = 0; i < 1'000'000; ++i)
    num_shown += matcher.Push(i % 2000 == 1999 ? "c" : "a").size();
  num_shown += matcher.Finish().size();
  EXPECT_EQ(num_shown, 1'000'000U);
  EXPECT_FALSE(matcher.matched());
  EXPECT_LT(std::clock() - start, 20 * CLOCKS_PER_SEC);
}

}  // namespace
}  // namespace m1
