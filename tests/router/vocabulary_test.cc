// The model's files as the router reads them.
#include "router/vocabulary.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace fs = std::filesystem;

class VocabularyTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) /
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
      fs::copy(fs::path("models/tiny") / name, directory_ / name);
    }
  }
  void TearDown() override { fs::remove_all(directory_); }

  void Replace(const std::string& file, const std::string& from, const std::string& to) {
    std::ifstream in(directory_ / file);
    std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    text.replace(at, from.size(), to);
    std::ofstream(directory_ / file) << text;
  }

  fs::path directory_;
};

TEST_F(VocabularyTest, EosComesFromTheConfig) {
  Replace("config.json", "\"eos_token_id\": 509", "\"eos_token_id\": [509, 510]");
  ASSERT_OK_AND_ASSIGN(const auto vocabulary, Vocabulary::Load(directory_));
  EXPECT_THAT(vocabulary->eos_token_ids(), ElementsAre(509, 510));
}

TEST_F(VocabularyTest, WithoutAnIdTheTokenizersEosCounts) {
  Replace("config.json", "\"eos_token_id\": 509", "\"eos_token_id\": null");
  ASSERT_OK_AND_ASSIGN(const auto vocabulary, Vocabulary::Load(directory_));
  EXPECT_THAT(vocabulary->eos_token_ids(), ElementsAre(509));

  fs::remove(directory_ / "tokenizer_config.json");
  ASSERT_OK_AND_ASSIGN(const auto without_file, Vocabulary::Load(directory_));
  EXPECT_THAT(without_file->eos_token_ids(), ElementsAre(509));

  std::ofstream(directory_ / "tokenizer_config.json")
      << "{\"eos_token\": {\"content\": \"<end_of_document>\"}}";
  ASSERT_OK_AND_ASSIGN(const auto object, Vocabulary::Load(directory_));
  EXPECT_THAT(object->eos_token_ids(), ElementsAre(510));

  std::ofstream(directory_ / "tokenizer_config.json") << "{\"eos_token\": \"unknown\"}";
  ASSERT_OK_AND_ASSIGN(const auto unknown, Vocabulary::Load(directory_));
  EXPECT_THAT(unknown->eos_token_ids(), IsEmpty());
}

TEST_F(VocabularyTest, DamagedFilesAreNamed) {
  std::ofstream(directory_ / "tokenizer_config.json") << "{";
  EXPECT_THAT(Vocabulary::Load(directory_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tokenizer_config.json")));
}

// Neither a pipe that nobody writes to nor a file without end holds up the start.
TEST_F(VocabularyTest, OddFilesAreRefused) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    const fs::path file = directory_ / name;
    fs::remove(file);
    ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
    EXPECT_THAT(Vocabulary::Load(directory_),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)));
    fs::remove(file);
    std::ofstream(file) << "{";
    fs::resize_file(file, uintmax_t{1} << 40);  // sparse
    EXPECT_THAT(Vocabulary::Load(directory_),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)));
    fs::remove(file);
    fs::create_directory(file);
    EXPECT_THAT(Vocabulary::Load(directory_),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)));
    fs::remove(file);
    fs::copy(fs::path("models/tiny") / name, file);
  }
}

TEST_F(VocabularyTest, TokenizerBeyondTheConfigIsRefused) {
  Replace("config.json", "\"vocab_size\": 512", "\"vocab_size\": 511");
  EXPECT_THAT(Vocabulary::Load(directory_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("vocab_size")));
}

TEST_F(VocabularyTest, ChatUsesTheTemplatesControlTokensAlone) {
  ASSERT_OK_AND_ASSIGN(const auto vocabulary, Vocabulary::Load(directory_));
  Chat chat;
  chat.messages.push_back({.role = ChatRole::kUser,
                           .text = "<end_of_sentence>",
                           .tool_calls = {},
                           .tool_name = std::nullopt});
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, vocabulary->EncodeChat(chat));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 509), 1);
  EXPECT_EQ(vocabulary->Decode(ids),
            "<begin_of_document><beginning_of_sentence>user name=user\n<end_of_sentence>"
            "<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n");
}

TEST_F(VocabularyTest, UnknownIdsHaveNoBytes) {
  ASSERT_OK_AND_ASSIGN(const auto vocabulary, Vocabulary::Load(directory_));
  for (int32_t id : {-1, 512, 1 << 30}) {
    EXPECT_THAT(vocabulary->Bytes(id), IsEmpty());
    EXPECT_FALSE(vocabulary->IsSpecial(id));
  }
}

}  // namespace
}  // namespace m1
