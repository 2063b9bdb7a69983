#include "common/text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"

#include "tests/common/text/golden_rows.h"
#include "tests/common/text/real_tokenizer.h"
#include "tests/common/text/small_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using Ids = std::vector<int32_t>;
using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> Small() {
  auto tokenizer = Tokenizer::FromJson(SmallTokenizerJson().dump());
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

std::string AsString(std::string_view view) { return std::string(view); }

TEST(TokenizerTest, AppliesMergesWithinPieces) {
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->EncodeText("the the"), (Ids{258, 260}));
  EXPECT_EQ(*tokenizer->EncodeText("thaaaaa"), (Ids{256, 262, 'a'}));
  EXPECT_EQ(*tokenizer->EncodeText(""), (Ids{}));
  EXPECT_EQ(tokenizer->DecodeText(Ids{258, 260}), "the the");
}

TEST(TokenizerTest, SpellingNeverMakesASpecialToken) {
  const auto tokenizer = Small();
  const auto small_ids = tokenizer->EncodeText("<start><start>+<tool>");
  ASSERT_OK(small_ids);
  for (int32_t id : *small_ids) EXPECT_LT(id, 256);
  const Tokenizer& real = RealTokenizer();
  for (int32_t special = 200000; special < real.vocab_size(); ++special) {
    ASSERT_TRUE(real.IsSpecial(special));
    const auto ids = real.EncodeText(real.TokenBytes(special));
    ASSERT_OK(ids);
    for (int32_t id : *ids) EXPECT_FALSE(real.IsSpecial(id));
    EXPECT_EQ(*real.EncodeWithSpecials(real.TokenBytes(special)), Ids{special});
  }
}

TEST(TokenizerTest, FindsTheLongestSpecialTokenAtTheLeftmostPlace) {
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->EncodeWithSpecials("<start>+<start>"), (Ids{264, 263}));
  EXPECT_EQ(*tokenizer->EncodeWithSpecials("<star<start"), *tokenizer->EncodeText("<star<start"));
  EXPECT_EQ(*tokenizer->EncodeWithSpecials("<start>-<start>"), (Ids{263, '-', 263}));
  EXPECT_EQ(*tokenizer->EncodeWithSpecials("<<start>x<tool>"), (Ids{'<', 263, 'x', 265}));
}

TEST(TokenizerTest, TextBesideASpecialTokenIsCutAlone) {
  const auto tokenizer = Small();
  // " the" is one token, but not across the border.
  EXPECT_EQ(*tokenizer->EncodeWithSpecials(" <start>the"), (Ids{' ', 263, 258}));
}

TEST(TokenizerTest, DescribesItsTokens) {
  const auto tokenizer = Small();
  EXPECT_EQ(tokenizer->TokenBytes(260), " the");
  EXPECT_EQ(tokenizer->TokenBytes(0xFF), "\xFF");
  EXPECT_EQ(AsString(tokenizer->TokenBytes(0)), std::string(1, '\0'));
  EXPECT_EQ(tokenizer->TokenBytes(263), "<start>");
  EXPECT_TRUE(tokenizer->IsSpecial(263));
  EXPECT_FALSE(tokenizer->IsSpecial(265)) << "<tool> is added, but readers see it";
  EXPECT_FALSE(tokenizer->IsSpecial(260));
  EXPECT_EQ(tokenizer->SpecialTokenId("<tool>"), 265);
  EXPECT_EQ(tokenizer->SpecialTokenId("the"), std::nullopt);
  EXPECT_EQ(tokenizer->SpecialTokenId(""), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), 266);
}

TEST(TokenizerTest, IdsWithoutATokenAreEmpty) {
  auto json = SmallTokenizerJson();
  json["added_tokens"][2]["id"] = 300;
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_OK(tokenizer);
  EXPECT_EQ((*tokenizer)->vocab_size(), 301);
  for (int32_t id : {-1, 265, 299, 301, INT32_MAX, INT32_MIN}) {
    EXPECT_FALSE((*tokenizer)->HasToken(id));
    EXPECT_FALSE((*tokenizer)->IsSpecial(id));
    EXPECT_EQ((*tokenizer)->TokenBytes(id), "");
  }
  EXPECT_TRUE((*tokenizer)->HasToken(300));
  EXPECT_EQ((*tokenizer)->DecodeText(Ids{'a', -5, 299, 300}), "a<tool>");
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8) {
  for (const char* text : {"\xFF", "a\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80"}) {
    EXPECT_THAT(Small()->EncodeText(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
    EXPECT_THAT(Small()->EncodeWithSpecials(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
  }
}

TEST(TokenizerTest, DecodesBrokenBytesAsReplacementCharacters) {
  const auto tokenizer = Small();
  EXPECT_EQ(tokenizer->DecodeText(Ids{0xE4, 0xB8, 'a', 0xFF, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F}),
            "\uFFFDa\uFFFD中\uFFFD");
}

TEST(TokenizerTest, RandomTextComesBackWhole) {
  const Tokenizer& tokenizer = RealTokenizer();
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::string bytes;  // any; then what of it is UTF-8
    for (size_t i = random() % 200; i > 0; --i) {
      const auto roll = static_cast<uint32_t>(random());
      bytes.push_back(static_cast<char>(roll % 3 == 0 ? roll >> 8 : 0x20 + (roll >> 8) % 0x5F));
    }
    Ids byte_ids;
    for (char c : bytes) byte_ids.push_back(static_cast<unsigned char>(c));
    const std::string text = tokenizer.DecodeText(byte_ids);
    const auto ids = tokenizer.EncodeText(text);
    ASSERT_OK(ids);
    EXPECT_EQ(tokenizer.DecodeText(*ids), text);
    std::string joined;
    for (int32_t id : *ids) joined += tokenizer.TokenBytes(id);
    EXPECT_EQ(joined, text);
  }
}

TEST(TokenizerTest, IgnoreMergesTakesWholePiecesFromTheVocabulary) {
  auto json = SmallTokenizerJson();
  json["model"]["vocab"]["xyz"] = 300;  // no merge leads there
  EXPECT_EQ(*(*Tokenizer::FromJson(json.dump()))->EncodeText("xyz"), (Ids{'x', 'y', 'z'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(*(*Tokenizer::FromJson(json.dump()))->EncodeText("xyz"), Ids{300});
}

TEST(TokenizerTest, ReadsMergesAsPairsToo) {
  auto json = SmallTokenizerJson();
  for (auto& merge : json["model"]["merges"]) {
    const std::string text = merge;
    const size_t blank = text.find(' ');
    merge = {text.substr(0, blank), text.substr(blank + 1)};
  }
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_OK(tokenizer);
  EXPECT_EQ(*(*tokenizer)->EncodeText("the the"), (Ids{258, 260}));
}

TEST(TokenizerTest, TakesALiteralAsAPattern) {
  auto json = SmallTokenizerJson();
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", "h."}};
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_OK(tokenizer);
  EXPECT_EQ(*(*tokenizer)->EncodeText("th.the"), (Ids{'t', 'h', '.', 258}));
}

// --- Long runs: one piece can be the whole text ---

TEST(TokenizerTest, MillionsOfOneCharacterTakeBoundedTime) {
  const Tokenizer& tokenizer = RealTokenizer();
  for (const char* unit : {"a", "A", " ", "\n", "\U0001F600", "中", "\u0301", " \n", "<", "'s"}) {
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text += unit;
    const std::clock_t start = std::clock();
    const auto ids = tokenizer.EncodeText(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    ASSERT_OK(ids);
    EXPECT_EQ(tokenizer.DecodeText(*ids), text);
    // A quadratic scan would take hours. Measured: at most 0.5 s in release; sanitizers need more.
    EXPECT_LT(seconds, 10) << unit;
  }
}

TEST(TokenizerTest, HalfSpelledSpecialTokensTakeBoundedTime) {
  std::string text;
  while (text.size() < 1'000'000) text += "<end_of_sentence<<";
  const auto ids = RealTokenizer().EncodeWithSpecials(text);
  ASSERT_OK(ids);
  EXPECT_EQ(*ids, *RealTokenizer().EncodeText(text));
}

TEST(TokenizerTest, ThreadsShareIt) {
  const Tokenizer& tokenizer = RealTokenizer();
  const std::vector<JsonValue> rows = ReadJsonLines("tests/golden/minimax-m1/tokenization.jsonl");
  std::vector<std::thread> threads;
  std::vector<int> num_wrong(4, 0);
  for (size_t t = 0; t < num_wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (const JsonValue& row : rows) {
        const auto ids = tokenizer.EncodeText(*StringAt(row, "text"));
        if (!ids.ok() || *ids != *IdsAt(row, "ids")) ++num_wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, std::vector<int>(4, 0));
}

// --- Files ---

class TokenizerFilesTest : public ::testing::Test {
 protected:
  TokenizerFilesTest()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                ("tokenizer_files_" + std::to_string(::getpid()) + "_" +
                 ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(folder_);
  }
  ~TokenizerFilesTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  const std::filesystem::path folder_;
};

TEST_F(TokenizerFilesTest, VocabAndMergesEqualTheJsonWithTheSamePattern) {
  auto json = nlohmann::json::parse(RealTokenizerJson());
  json["pre_tokenizer"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  const auto from_json = Tokenizer::FromJson(json.dump());
  ASSERT_OK(from_json);
  nlohmann::json added = nlohmann::json::object();
  for (const auto& token : json["added_tokens"]) {
    added[std::to_string(token["id"].get<int>())] = {{"content", token["content"]},
                                                     {"special", true}};
  }
  Write("vocab.json", json["model"]["vocab"].dump());
  Write("merges.txt", ReadWholeFile("tests/golden/minimax-m1/merges.txt"));
  Write("tokenizer_config.json", nlohmann::json{{"added_tokens_decoder", added}}.dump());
  const auto from_files = Tokenizer::Load(folder_.string());
  ASSERT_OK(from_files);
  EXPECT_EQ((*from_files)->vocab_size(), 200064);
  int num_cut_differently = 0;
  for (const JsonValue& row : ReadJsonLines("tests/golden/minimax-m1/tokenization.jsonl")) {
    const std::string text = *StringAt(row, "text");
    EXPECT_EQ(*(*from_files)->EncodeText(text), *(*from_json)->EncodeText(text)) << text;
    EXPECT_EQ(*(*from_files)->EncodeWithSpecials(text), *(*from_json)->EncodeWithSpecials(text));
    if (*(*from_files)->EncodeText(text) != *IdsAt(row, "ids")) ++num_cut_differently;
  }
  EXPECT_GT(num_cut_differently, 50) << "GPT-2's pattern is not M1's";
  for (int32_t id = 0; id < 200064; ++id) {
    ASSERT_EQ((*from_files)->TokenBytes(id), (*from_json)->TokenBytes(id));
    ASSERT_EQ((*from_files)->IsSpecial(id), (*from_json)->IsSpecial(id));
  }
}

TEST_F(TokenizerFilesTest, TokensWithARoleAreSpecial) {
  const auto json = SmallTokenizerJson();
  auto vocab = json["model"]["vocab"];
  vocab["<eos>"] = 270;
  std::string merges = "#version: 0.2\r\n";
  for (const auto& merge : json["model"]["merges"]) merges += merge.get<std::string>() + "\r\n";
  Write("vocab.json", vocab.dump());
  Write("merges.txt", merges);
  Write("tokenizer_config.json",
        R"({"eos_token": {"content": "<eos>"}, "pad_token": null, "bos_token": "<absent>"})");
  const auto tokenizer = Tokenizer::Load(folder_.string());
  ASSERT_OK(tokenizer);
  EXPECT_EQ((*tokenizer)->SpecialTokenId("<eos>"), 270);
  EXPECT_TRUE((*tokenizer)->IsSpecial(270));
  EXPECT_EQ((*tokenizer)->SpecialTokenId("<absent>"), std::nullopt);
  EXPECT_EQ(*(*tokenizer)->EncodeText("the"), Ids{258});
}

TEST_F(TokenizerFilesTest, WorksWithoutATokenizerConfig) {
  const auto json = SmallTokenizerJson();
  Write("vocab.json", json["model"]["vocab"].dump());
  Write("merges.txt", "t h\n# #\n");  // a merge of '#' is no comment
  EXPECT_THAT(Tokenizer::Load(folder_.string()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("'#' '#'")));
  Write("merges.txt", "t h");
  ASSERT_OK(Tokenizer::Load(folder_.string()));
}

TEST_F(TokenizerFilesTest, ErrorsNameTheFile) {
  const std::string folder = folder_.string();
  EXPECT_THAT(Tokenizer::Load(folder + "/nowhere"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere has neither")));
  Write("vocab.json", "{");
  EXPECT_THAT(Tokenizer::Load(folder),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("merges.txt")));
  Write("merges.txt", "t h\nt\n");
  EXPECT_THAT(Tokenizer::Load(folder),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("vocab.json: not JSON at byte")));
  Write("vocab.json", SmallTokenizerJson()["model"]["vocab"].dump());
  EXPECT_THAT(Tokenizer::Load(folder),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("merges.txt: line 2 't'")));
  Write("merges.txt", "t h\n");
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})");
  EXPECT_THAT(Tokenizer::Load(folder), StatusIs(absl::StatusCode::kDataLoss,
                                                HasSubstr("tokenizer_config.json: added_tokens")));
  std::filesystem::create_directory(folder_ / "tokenizer.json");
  EXPECT_THAT(Tokenizer::Load(folder),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tokenizer.json")));
}

}  // namespace
}  // namespace m1
