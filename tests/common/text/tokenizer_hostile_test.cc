// Tokenizer files that are malformed, or ask for what we do not do: each is refused by name.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

#include "common/text/tokenizer.h"
#include "tests/common/text/small_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

struct BadTokenizer {
  const char* name;
  std::function<void(json&)> bend;
  const char* message;
};

void PrintTo(const BadTokenizer& bad, std::ostream* out) { *out << bad.name; }

json& Split(json& j) { return j["pre_tokenizer"]["pretokenizers"][0]; }
json& ByteLevel(json& j) { return j["pre_tokenizer"]["pretokenizers"][1]; }

class BadTokenizerTest : public ::testing::TestWithParam<BadTokenizer> {};

TEST_P(BadTokenizerTest, IsRefusedByName) {
  json file = SmallTokenizerJson();
  ASSERT_OK(Tokenizer::FromJson(file.dump()));
  GetParam().bend(file);
  EXPECT_THAT(Tokenizer::FromJson(file.dump()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(GetParam().message)));
}

const BadTokenizer kBadTokenizers[] = {
    {"NoModel", [](json& j) { j.erase("model"); }, "model is null"},
    {"ModelIsAList", [](json& j) { j["model"] = json::array(); }, "model is []"},
    {"OtherModel", [](json& j) { j["model"]["type"] = "WordPiece"; },
     "model.type \"WordPiece\" is not supported"},
    {"Dropout", [](json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout 0.1"},
    {"Prefix", [](json& j) { j["model"]["continuing_subword_prefix"] = "##"; },
     "model.continuing_subword_prefix \"##\""},
    {"Suffix", [](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; },
     "model.end_of_word_suffix \"</w>\""},
    {"IgnoreMergesIsANumber", [](json& j) { j["model"]["ignore_merges"] = 1; },
     "model.ignore_merges is 1"},
    {"Normalizer",
     [](json& j) {
       j["normalizer"] = {{"type", "NFC"}};
     },
     "normalizer {\"type\":\"NFC\"} is not supported"},
    {"NoPreTokenizer", [](json& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer null"},
    {"OtherPreTokenizer",
     [](json& j) {
       j["pre_tokenizer"] = {{"type", "Whitespace"}};
     },
     "pre_tokenizer {\"type\":\"Whitespace\"}"},
    {"EmptySequence", [](json& j) { j["pre_tokenizer"]["pretokenizers"] = json::array(); },
     "pre_tokenizer.pretokenizers is []"},
    {"SequenceWithoutByteLevel", [](json& j) { j["pre_tokenizer"]["pretokenizers"].erase(1); },
     "pre_tokenizer.pretokenizers[0]"},
    {"OtherStep",
     [](json& j) {
       Split(j) = {{"type", "Digits"}};
     },
     "pre_tokenizer.pretokenizers[0] {\"type\":\"Digits\"}"},
    {"Behavior", [](json& j) { Split(j)["behavior"] = "Removed"; },
     "pretokenizers[0].behavior \"Removed\""},
    {"Invert", [](json& j) { Split(j)["invert"] = true; }, "pretokenizers[0].invert true"},
    {"PrefixSpace", [](json& j) { ByteLevel(j)["add_prefix_space"] = true; },
     "pretokenizers[1].add_prefix_space true"},
    {"PatternIsANumber",
     [](json& j) {
       Split(j)["pattern"] = {{"Regex", 7}};
     },
     "pretokenizers[0].pattern is {\"Regex\":7}"},
    {"UnsupportedPattern", [](json& j) { Split(j)["pattern"]["Regex"] = "a\\w+"; },
     "pre_tokenizer: pattern at byte 1: escape '\\w' is not supported"},
    {"BrokenPattern", [](json& j) { Split(j)["pattern"]["Regex"] = "a{2,1}"; },
     "pre_tokenizer: pattern does not compile"},
    {"PatternMatchesNothing", [](json& j) { Split(j)["pattern"]["Regex"] = "a*"; },
     "pattern can match nothing"},
    {"EmptyLiteral",
     [](json& j) {
       Split(j)["pattern"] = {{"String", ""}};
     },
     "pattern can match nothing"},
    {"NoDecoder", [](json& j) { j.erase("decoder"); }, "decoder null"},
    {"OtherDecoder",
     [](json& j) {
       j["decoder"] = {{"type", "Metaspace"}};
     },
     "decoder {\"type\":\"Metaspace\"}"},

    {"NoVocab", [](json& j) { j["model"].erase("vocab"); }, "model.vocab is missing"},
    {"VocabIsAList",
     [](json& j) {
       j["model"]["vocab"] = json::array({1, 2});
     },
     "model.vocab is missing"},
    {"NegativeId", [](json& j) { j["model"]["vocab"]["th"] = -1; }, "token 'th' has id -1"},
    {"HugeId", [](json& j) { j["model"]["vocab"]["th"] = 1 << 30; },
     "token 'th' has id 1073741824"},
    {"GiganticId", [](json& j) { j["model"]["vocab"]["th"] = UINT64_MAX; }, "token 'th' has id"},
    {"FractionalId", [](json& j) { j["model"]["vocab"]["th"] = 256.5; },
     "id of token 'th' is not an integer"},
    {"IdIsAString", [](json& j) { j["model"]["vocab"]["th"] = "256"; },
     "id of token 'th' is not an integer"},
    {"IdIsAnObject", [](json& j) { j["model"]["vocab"]["th"] = json::object(); },
     "id of token 'th' is not an integer"},
    {"DoubledId", [](json& j) { j["model"]["vocab"]["th"] = 257; }, "have the same id 257"},
    {"NotTheByteAlphabet", [](json& j) { j["model"]["vocab"]["t h"] = 400; },
     "token 't h' is not spelled in the byte alphabet"},
    {"FarOutsideTheByteAlphabet", [](json& j) { j["model"]["vocab"]["中"] = 400; },
     "is not spelled in the byte alphabet"},
    {"EmptyToken", [](json& j) { j["model"]["vocab"][""] = 400; }, "token 400 is empty"},
    {"MissingByte", [](json& j) { j["model"]["vocab"].erase("Ā"); }, "no token for byte 0"},

    {"NoMerges", [](json& j) { j["model"].erase("merges"); }, "model.merges is missing"},
    {"MergesIsAString", [](json& j) { j["model"]["merges"] = "t h"; }, "model.merges is missing"},
    {"MergeIsANumber", [](json& j) { j["model"]["merges"][1] = 5; },
     "model.merges[1] is neither a string nor two"},
    {"MergeIsAnObject", [](json& j) { j["model"]["merges"][1] = json::object(); },
     "model.merges[1] is neither a string nor two"},
    {"MergeOfOne", [](json& j) { j["model"]["merges"][2] = "the"; },
     "model.merges[2] 'the' is not two tokens"},
    {"MergeOfThree", [](json& j) { j["model"]["merges"][2] = "t h e"; },
     "model.merges[2] 't h e' is not two tokens"},
    {"PairOfOne", [](json& j) { j["model"]["merges"][2] = {"the"}; }, "less than two parts"},
    {"PairOfThree",
     [](json& j) {
       j["model"]["merges"][2] = {"t", "h", "e"};
     },
     "more than two parts"},
    {"PairOfNumbers",
     [](json& j) {
       j["model"]["merges"][2] = {1, 2};
     },
     "model.merges[2] is neither a string nor two"},
    {"PairInAPair",
     [](json& j) {
       j["model"]["merges"][2] = {{"t", "h"}, "e"};
     },
     "model.merges[2] is neither a string nor two"},
    {"MergeOfUnknownParts", [](json& j) { j["model"]["merges"][0] = "xy z"; },
     "merge 0 'xy' 'z': a part is not in the vocabulary"},
    {"MergeToNowhere", [](json& j) { j["model"]["merges"][0] = "x y"; },
     "merge 0 'x' 'y': the result is not in the vocabulary"},
    {"MergeOfNothing", [](json& j) { j["model"]["merges"][0] = " h"; }, "a part is not in"},
    {"MergeOutsideTheAlphabet",
     [](json& j) {
       j["model"]["merges"][0] = {"中", "h"};
     },
     "not spelled in the byte alphabet"},
    {"DoubledMerge", [](json& j) { j["model"]["merges"].push_back("t h"); },
     "merge 7 't' 'h': comes twice"},

    {"AddedIsAnObject", [](json& j) { j["added_tokens"] = json::object(); }, "added_tokens is {}"},
    {"AddedEntryIsAString", [](json& j) { j["added_tokens"][1] = "<x>"; },
     "added_tokens[1].content is null"},
    {"AddedWithoutId", [](json& j) { j["added_tokens"][1].erase("id"); },
     "added_tokens[1].id is null"},
    {"AddedNegativeId", [](json& j) { j["added_tokens"][1]["id"] = -3; },
     "added_tokens[1].id is -3"},
    {"AddedHugeId", [](json& j) { j["added_tokens"][1]["id"] = UINT64_MAX; },
     "added_tokens[1].id is 18446744073709551615"},
    {"AddedLargeId", [](json& j) { j["added_tokens"][1]["id"] = 5'000'000; },
     "'<start>+' has id 5000000"},
    {"AddedIsEmpty", [](json& j) { j["added_tokens"][1]["content"] = ""; }, "is empty"},
    {"AddedTwice", [](json& j) { j["added_tokens"][1]["content"] = "<start>"; }, "comes twice"},
    {"AddedIdOfAnother", [](json& j) { j["added_tokens"][1]["id"] = 260; }, "have the same id 260"},
    {"AddedAndVocabDisagree", [](json& j) { j["model"]["vocab"]["<start>"] = 400; },
     "special token '<start>' has id 263, in the vocabulary 400"},
    {"AddedStripsSpace", [](json& j) { j["added_tokens"][1]["lstrip"] = true; },
     "added_tokens[1].lstrip true"},
    {"AddedSingleWord", [](json& j) { j["added_tokens"][1]["single_word"] = true; },
     "added_tokens[1].single_word true"},
    {"AddedSpecialIsAString", [](json& j) { j["added_tokens"][1]["special"] = "yes"; },
     "added_tokens[1].special is \"yes\""},
    {"MergesMakeASpecialToken",
     [](json& j) {
       j["added_tokens"][1] = {{"content", "the"}, {"id", 258}, {"special", true}};
     },
     "merge 2 'th' 'e': the result is not in the vocabulary"},
    {"AByteIsASpecialToken",
     [](json& j) {
       j["added_tokens"][1] = {{"content", "x"}, {"id", 'x'}, {"special", true}};
     },
     "no token for byte 120"},
    {"TooManyValues", [](json& j) { j["post_processor"] = std::vector<int>(1'100'000, 0); },
     "more than 1048576 values"},
};

INSTANTIATE_TEST_SUITE_P(All, BadTokenizerTest, ::testing::ValuesIn(kBadTokenizers),
                         [](const auto& test) { return test.param.name; });

TEST(HostileTokenizerTest, RefusesWhatIsNotJson) {
  const std::string good = SmallTokenizerJson().dump();
  std::vector<std::string> texts = {"",
                                    " ",
                                    "{",
                                    "nul",
                                    "{\"model\":",
                                    "[1,2",
                                    good + "}",
                                    good + good,
                                    "\xFF\xFE",
                                    "{\"a\":NaN}",
                                    "{'a':1}",
                                    "{\"a\":1e999}",
                                    "{\"\xFF\":1}",
                                    "{\"\\ud800\":1}"};
  for (size_t length = 1; length < good.size(); length += 37)
    texts.push_back(good.substr(0, length));
  for (const std::string& text : texts) {
    EXPECT_THAT(Tokenizer::FromJson(text), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("JSON")))
        << text.substr(0, 60);
  }
}

TEST(HostileTokenizerTest, RefusesJsonOfAnotherKind) {
  for (const char* text : {"null", "[]", "7", "\"model\"", "{}", "{\"model\":{}}", "true"}) {
    EXPECT_THAT(Tokenizer::FromJson(text), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("")))
        << text;
  }
}

TEST(HostileTokenizerTest, RefusesDeepNesting) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text += open;
    EXPECT_THAT(Tokenizer::FromJson(text),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("more than 32 levels")));
  }
}

TEST(HostileTokenizerTest, RefusesTwoVocabularies) {
  EXPECT_THAT(Tokenizer::FromJson(R"({"model":{"vocab":{},"vocab":{}}})"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("model.vocab comes twice")));
  EXPECT_THAT(Tokenizer::FromJson(R"({"model":{"merges":[],"merges":[]}})"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("model.merges comes twice")));
}

// A pattern that the file's author made to hang: encoding fails instead.
TEST(HostileTokenizerTest, ExponentialPatternsFailToEncode) {
  json file = SmallTokenizerJson();
  Split(file)["pattern"]["Regex"] = "(?:a|aa)+[bd]";
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_OK(tokenizer);
  EXPECT_THAT((*tokenizer)->EncodeText(std::string(300, 'a')),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("match limit")));
}

// Every byte of the file replaced by something else: never a crash.
TEST(HostileTokenizerTest, SurvivesEveryByteChanged) {
  const std::string good = SmallTokenizerJson().dump();
  for (size_t i = 0; i < good.size(); i += 3) {
    for (const char c : {'\0', '"', '9', '}', ',', '\xE9'}) {
      std::string text = good;
      text[i] = c;
      const auto tokenizer = Tokenizer::FromJson(text);
      if (tokenizer.ok()) {
        EXPECT_OK((*tokenizer)->EncodeText("the <start>"));
      } else {
        EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kDataLoss);
      }
    }
  }
}

}  // namespace
}  // namespace m1
