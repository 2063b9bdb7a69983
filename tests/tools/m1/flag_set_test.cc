#include "tools/m1/flag_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Values {
  std::string target = "default";
  std::vector<std::string> stops;
  bool json = false;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<uint64_t> seed;
  std::optional<absl::Duration> timeout;
};

void Declare(FlagSet* flags, Values* values) {
  flags->String("target", &values->target, "where");
  flags->Strings("stop", &values->stops, "ends the answer");
  flags->Bool("json", &values->json, "machine output");
  flags->Int("top_k", &values->top_k, "");
  flags->Float("top_p", &values->top_p, "");
  flags->Uint64("seed", &values->seed, "");
  flags->Duration("timeout", &values->timeout, "");
}

absl::Status Parse(const std::vector<std::string>& args, Values* values) {
  FlagSet flags("test", "a test");
  Declare(&flags, values);
  return flags.Parse(args);
}

TEST(FlagSetTest, ReadsBothSpellingsOfAValue) {
  Values values;
  ASSERT_TRUE(Parse({"--target=a:1", "--top_k", "-3", "--seed", "18446744073709551615", "--timeout=1.5s",
                     "--top_p", "0.5"},
                    &values)
                  .ok());
  EXPECT_EQ(values.target, "a:1");
  EXPECT_EQ(values.top_k, -3);
  EXPECT_EQ(values.seed, 18446744073709551615u);
  EXPECT_EQ(values.timeout, absl::Milliseconds(1500));
  EXPECT_EQ(values.top_p, 0.5f);
}

TEST(FlagSetTest, KeepsDefaultsAndAbsence) {
  Values values;
  ASSERT_TRUE(Parse({}, &values).ok());
  EXPECT_EQ(values.target, "default");
  EXPECT_EQ(values.top_k, std::nullopt);
}

TEST(FlagSetTest, OptionalBoolSaysWhetherItCame) {
  const auto parse = [](const std::vector<std::string>& args) {
    std::optional<bool> value;
    FlagSet flags("do", "does");
    flags.Bool("pin", &value, "help");
    EXPECT_TRUE(flags.Parse(args).ok());
    return value;
  };
  EXPECT_EQ(parse({}), std::nullopt);
  EXPECT_EQ(parse({"--pin"}), true);
  EXPECT_EQ(parse({"--pin=false"}), false);
}

TEST(FlagSetTest, BoolTakesNoSeparateValue) {
  Values values;
  ASSERT_TRUE(Parse({"--json", "--stop", "x", "--stop=y=z"}, &values).ok());
  EXPECT_TRUE(values.json);
  EXPECT_THAT(values.stops, ElementsAre("x", "y=z"));
  ASSERT_TRUE(Parse({"--json=false"}, &values).ok());
  EXPECT_FALSE(values.json);
}

TEST(FlagSetTest, ErrorsNameTheFlag) {
  Values values;
  for (const auto& [args, wanted] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--top_k", "many"}, "--top_k is \"many\""},
           {{"--nothing", "1"}, "--nothing"},
           {{"--top_k"}, "--top_k needs a value"},
           {{"word"}, "\"word\" is not a flag"},
           {{"--json=perhaps"}, "--json"},
           {{"--timeout", "5"}, "--timeout"}}) {
    const absl::Status status = Parse(args, &values);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(wanted));
  }
}

TEST(FlagSetTest, UnknownFlagsGoToTheHandler) {
  std::vector<std::string> unknown;
  FlagSet flags("test", "a test");
  flags.OnUnknown([&unknown](absl::string_view name, absl::string_view value) {
    unknown.push_back(std::string(name) + "=" + std::string(value));
    return absl::OkStatus();
  });
  ASSERT_TRUE(flags.Parse({"--threads", "2", "--kv_bytes=5"}).ok());
  EXPECT_THAT(unknown, ElementsAre("threads=2", "kv_bytes=5"));
}

TEST(FlagSetTest, HelpNamesEveryFlag) {
  Values values;
  FlagSet flags("test", "a test");
  Declare(&flags, &values);
  ASSERT_TRUE(flags.Parse({"--help", "--bad"}).ok());
  EXPECT_TRUE(flags.help_requested());
  for (const char* name : {"--target TEXT", "--json", "--top_k N", "--timeout 5s", "m1 test: a test"}) {
    EXPECT_THAT(flags.HelpText(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace m1
