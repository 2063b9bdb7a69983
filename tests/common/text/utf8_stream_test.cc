#include "common/text/utf8_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace m1 {
namespace {

constexpr char kBad[] = "\xEF\xBF\xBD";

std::vector<std::string> PushEach(const std::vector<std::string>& pieces) {
  Utf8Stream stream;
  std::vector<std::string> shown;
  for (const std::string& piece : pieces) shown.push_back(stream.Push(piece));
  shown.push_back(stream.End());
  return shown;
}

TEST(Utf8StreamTest, ShowsACharacterWhenItIsWhole) {
  EXPECT_EQ(PushEach({"a\xF0\x9F", "\x99", "\x82z"}),
            (std::vector<std::string>{"a", "", "\xF0\x9F\x99\x82z", ""}));
}

TEST(Utf8StreamTest, ShowsBadBytesAsSoonAsTheyAreKnown) {
  EXPECT_EQ(PushEach({"\x80", "\xC3", "(", "\xE2\x82", "\xE2"}),
            (std::vector<std::string>{kBad, "", std::string(kBad) + "(", "", kBad, kBad}));
}

TEST(Utf8StreamTest, ReplacesEachMaximalSubpart) {
  const std::string bad(kBad);
  Utf8Stream stream;
  // Overlong, surrogate, above U+10FFFF: the second byte is out of range, so each byte stands
  // alone.
  EXPECT_EQ(stream.Push("\xC0\x80"), bad + bad);
  EXPECT_EQ(stream.Push("\xE0\x80\x80"), bad + bad + bad);
  EXPECT_EQ(stream.Push("\xED\xA0\x80"), bad + bad + bad);
  EXPECT_EQ(stream.Push("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(stream.Push("\xF0\x9F\x99z"), bad + "z");
  EXPECT_EQ(stream.num_held_bytes(), 0);
}

TEST(Utf8StreamTest, ValidityAgreesWithTheStreamOnAllShortSequences) {
  const std::string edges(
      "\0\x7F\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xDF\xE0\xE1\xED\xEF\xF0\xF1\xF4\xF5\xFF", 20);
  for (size_t n = 0; n < 20 * 20 * 20 * 20; ++n) {
    std::string text;
    for (size_t rest = n, i = 0; i < 4; ++i, rest /= 20) text += edges[rest % 20];
    Utf8Stream stream;
    const std::string shown = stream.Push(text) + stream.End();
    ASSERT_EQ(IsValidUtf8(text), shown == text) << n;
    ASSERT_TRUE(IsValidUtf8(shown)) << n;
  }
}

}  // namespace
}  // namespace m1
