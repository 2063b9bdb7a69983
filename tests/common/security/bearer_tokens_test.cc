#include "common/security/bearer_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// From FIPS 180-2: SHA-256 of "abc".
constexpr char kDigestOfAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

std::string Line(absl::string_view name, absl::string_view token) {
  return absl::StrCat(name, " ", TokenDigest(token), "\n");
}

TEST(BearerTokensTest, DigestIsSha256) { EXPECT_EQ(TokenDigest("abc"), kDigestOfAbc); }

TEST(BearerTokensTest, NamesTheHolder) {
  ASSERT_OK_AND_ASSIGN(
      const BearerTokens tokens,
      BearerTokens::Parse(
          absl::StrCat("# of the team\n\n \tteam-a\t", absl::AsciiStrToUpper(kDigestOfAbc), " \r\n",
                       Line("B.2_x", "other"), "team-a ", TokenDigest("next"), " admin\n")));
  EXPECT_EQ(tokens.size(), 3U);
  EXPECT_EQ(tokens.HolderOf("abc"), (TokenHolder{"team-a", false}));
  EXPECT_EQ(tokens.HolderOf("next"), (TokenHolder{"team-a", true}));
  EXPECT_EQ(tokens.HolderOf("other"), (TokenHolder{"B.2_x", false}));
  for (const absl::string_view wrong : {"", "ab", "abcd", "ABC", kDigestOfAbc}) {
    EXPECT_EQ(tokens.HolderOf(wrong), std::nullopt) << wrong;
  }
}

TEST(BearerTokensTest, NamesTheBadLineAndRepeatsNothingOfIt) {
  const std::string good = Line("a", "1");
  const std::pair<std::string, std::string> cases[] = {
      {"secret-token", "1 words"},
      {absl::StrCat("secret-token ", kDigestOfAbc, " c"), "third word"},
      {absl::StrCat("secret-token ", kDigestOfAbc, " admin 7"), "4 words"},
      {absl::StrCat("secret,token ", kDigestOfAbc), "the name"},
      {absl::StrCat(std::string(65, 's'), " ", kDigestOfAbc), "the name"},
      {absl::StrCat("n ", std::string(kDigestOfAbc, 63)), "64 hexadecimal"},
      {absl::StrCat("n ", kDigestOfAbc, "0"), "64 hexadecimal"},
      {absl::StrCat("n g", kDigestOfAbc + 1), "64 hexadecimal"},
      {Line("b", "1"), "earlier line"},
  };
  for (const auto& [line, problem] : cases) {
    EXPECT_THAT(BearerTokens::Parse(absl::StrCat(good, "\n", line)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("line 3"), HasSubstr(problem), Not(HasSubstr("secret")),
                               Not(HasSubstr("7816")))))
        << line;
  }
}

TEST(BearerTokensTest, AFileWithoutTokensIsATableOfNobody) {
  for (const absl::string_view text : {"", "\n", "# none\n"}) {
    ASSERT_OK_AND_ASSIGN(const BearerTokens tokens, BearerTokens::Parse(text));
    EXPECT_EQ(tokens.size(), 0U);
    EXPECT_EQ(tokens.HolderOf(""), std::nullopt);
    EXPECT_EQ(tokens.HolderOf("abc"), std::nullopt);
  }
}

TEST(BearerTokensTest, TakesNotTooMany) {
  std::string text;
  for (size_t i = 0; i < BearerTokens::kMaxTokens; ++i) text += Line("n", absl::StrCat(i));
  EXPECT_OK(BearerTokens::Parse(text));
  text += Line("n", "one more");
  EXPECT_THAT(BearerTokens::Parse(text),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("more than 4096")));
}

}  // namespace
}  // namespace m1
