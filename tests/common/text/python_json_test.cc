#include "common/text/python_json.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace m1 {
namespace {

std::string Reprint(absl::string_view text) {
  const absl::StatusOr<JsonValue> value = ParseJson(text);
  return value.ok() ? PrintPythonJson(*value) : std::string(value.status().message());
}

TEST(PythonJsonTest, PrintsNumbersAsPython) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"1.50", "1.5"},
      {"1E3", "1000.0"},
      {"2e-7", "2e-07"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"123456789012345678.0", "1.2345678901234568e+17"},
      {"-0.0", "-0.0"},
      {"-0", "0"},
      {"-12", "-12"},
      {"1e-400", "0.0"},
      {"5e-324", "5e-324"},
      {"0.1", "0.1"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"1234.5678", "1234.5678"},
      {"123456789012345678901234567890", "123456789012345678901234567890"}};
  for (const auto& [text, printed] : cases) EXPECT_EQ(Reprint(text), printed);
}

TEST(PythonJsonTest, KeepsOrderAndEscapesLikePython) {
  EXPECT_EQ(Reprint(R"({ "b":[ ] ,"a":{},"c":[true,false,null]})"),
            R"({"b": [], "a": {}, "c": [true, false, null]})");
  EXPECT_EQ(Reprint(R"("\u00e9\/\ud83d\ude00\u001f\b\f\n\r\t\"\\\u007f")"),
            "\"é/😀\\u001f\\b\\f\\n\\r\\t\\\"\\\\\x7f\"");
}

TEST(PythonJsonTest, LastOfEqualKeysWinsInTheFirstPlace) {
  EXPECT_EQ(Reprint(R"({"a":1,"b":2,"a":3})"), R"({"a": 3, "b": 2})");
}

TEST(PythonJsonTest, RefusesWhatIsNotStrictJson) {
  for (const char* text : {"",
                           "{",
                           "[1,]",
                           "{\"a\":1,}",
                           "NaN",
                           "Infinity",
                           "-Infinity",
                           "1e999",
                           "01",
                           "1.",
                           ".5",
                           "+1",
                           "1e",
                           "'a'",
                           "\"\n\"",
                           "\"\\x\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\u12\"",
                           "\"\\u+123\"",
                           "tru",
                           "1 2",
                           "{\"a\" 1}",
                           "{1:2}",
                           "\"abc",
                           "\"\xff\"",
                           "[1 2]",
                           "-",
                           "// x\n1",
                           "\xEF\xBB\xBF{}"}) {
    EXPECT_FALSE(ParseJson(text).ok()) << text;
  }
}

TEST(PythonJsonTest, BoundsDepth) {
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  EXPECT_TRUE(ParseJson(deep).ok());
  EXPECT_FALSE(ParseJson("[" + deep + "]").ok());
  EXPECT_FALSE(ParseJson(std::string(1000000, '[')).ok());
}

TEST(PythonJsonTest, CanonicalJsonObjectTakesObjectsOnly) {
  EXPECT_EQ(*CanonicalJsonObject(" {\"a\":1} "), "{\"a\": 1}");
  EXPECT_FALSE(CanonicalJsonObject("[]").ok());
  EXPECT_FALSE(CanonicalJsonObject("\"{}\"").ok());
}

}  // namespace
}  // namespace m1
