// Every recorded answer of Hugging Face tokenizers.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/text/chat_template.h"
#include "common/text/python_json.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8_stream.h"
#include "tests/common/text/golden_rows.h"
#include "tests/common/text/real_tokenizer.h"

namespace m1 {
namespace {

const std::string kGoldenFolder = "tests/golden/minimax-m1";

using Ids = std::vector<int32_t>;

TEST(TokenizerGoldenTest, EncodesEveryRow) {
  const Tokenizer& tokenizer = RealTokenizer();
  const std::vector<JsonValue> rows = ReadJsonLines(kGoldenFolder + "/tokenization.jsonl");
  ASSERT_EQ(rows.size(), 598u);
  int num_special_rows = 0;
  for (const JsonValue& row : rows) {
    const std::string text = *StringAt(row, "text");
    const Ids ids = *IdsAt(row, "ids");
    const auto encoded = tokenizer.EncodeText(text);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_EQ(*encoded, ids) << text;
    EXPECT_EQ(tokenizer.DecodeText(ids), text);

    const std::optional<Ids> special_ids = IdsAt(row, "special_ids");
    const auto with_specials = tokenizer.EncodeWithSpecials(text);
    ASSERT_TRUE(with_specials.ok()) << with_specials.status();
    EXPECT_EQ(*with_specials, special_ids.value_or(ids)) << text;
    if (special_ids.has_value()) ++num_special_rows;
  }
  EXPECT_EQ(num_special_rows, 30);
}

TEST(TokenizerGoldenTest, DecodesEveryRow) {
  const Tokenizer& tokenizer = RealTokenizer();
  const std::vector<JsonValue> rows = ReadJsonLines(kGoldenFolder + "/decode.jsonl");
  ASSERT_EQ(rows.size(), 288u);
  for (const JsonValue& row : rows) {
    const Ids ids = *IdsAt(row, "ids");
    const std::string text = *StringAt(row, "text");
    EXPECT_EQ(tokenizer.DecodeText(ids), text);
    Ids visible;
    for (int32_t id : ids) {
      if (!tokenizer.IsSpecial(id)) visible.push_back(id);
    }
    EXPECT_EQ(tokenizer.DecodeText(visible), StringAt(row, "text_without_specials").value_or(text));
  }
}

TEST(TokenizerGoldenTest, StreamsTheRecordedDeltas) {
  const Tokenizer& tokenizer = RealTokenizer();
  for (const JsonValue& row : ReadJsonLines(kGoldenFolder + "/decode.jsonl")) {
    const Ids ids = *IdsAt(row, "ids");
    const std::vector<JsonValue>& deltas = row.Find("deltas")->items;
    ASSERT_EQ(deltas.size(), ids.size());
    Utf8Stream stream;
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string_view bytes = tokenizer.TokenBytes(ids[i]);
      EXPECT_EQ(stream.Push(absl::string_view(bytes.data(), bytes.size())), deltas[i].text)
          << "token " << i << " of " << *StringAt(row, "text");
    }
    EXPECT_EQ(stream.End(), *StringAt(row, "end"));
  }
}

PromptEncoder EncoderOf(const Tokenizer& tokenizer) {
  return {.encode_text =
              [&tokenizer](absl::string_view text) {
                auto ids = tokenizer.EncodeText(std::string_view(text.data(), text.size()));
                EXPECT_TRUE(ids.ok()) << ids.status();
                return ids.value_or(Ids());
              },
          .special_token_id =
              [&tokenizer](absl::string_view text) {
                return tokenizer.SpecialTokenId(std::string_view(text.data(), text.size()));
              }};
}

TEST(TokenizerGoldenTest, EncodesPromptsOfTheChatTemplate) {
  const PromptEncoder encoder = EncoderOf(RealTokenizer());
  int num_rows = 0;
  int num_api_rows = 0;
  for (const JsonValue& row : ReadJsonLines(kGoldenFolder + "/chat_template.jsonl")) {
    const std::optional<Ids> expected = IdsAt(row, "ids");
    if (!expected.has_value()) continue;  // a row with `error`
    ++num_rows;
    const auto segments = RenderTemplate(TemplateInputOf(row));
    ASSERT_TRUE(segments.ok()) << segments.status();
    const auto ids = EncodePrompt(*segments, encoder);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, *expected) << *StringAt(row, "name");

    // Control tokens that the caller spelled stay text; read back from text they do not.
    const auto plain = RealTokenizer().EncodeWithSpecials(*StringAt(row, "rendered"));
    ASSERT_TRUE(plain.ok());
    EXPECT_EQ(*plain == *expected, row.Find("plain_encoding_equal")->text == "true")
        << *StringAt(row, "name");

    const JsonValue* api = row.Find("api");
    if (api == nullptr) continue;
    ++num_api_rows;
    const auto chat_segments = RenderChat(ChatOf(*api));
    ASSERT_TRUE(chat_segments.ok()) << chat_segments.status();
    const auto chat_ids = EncodePrompt(*chat_segments, encoder);
    ASSERT_TRUE(chat_ids.ok()) << chat_ids.status();
    EXPECT_EQ(*chat_ids, *expected) << *StringAt(row, "name");
  }
  EXPECT_EQ(num_rows, 68);
  EXPECT_EQ(num_api_rows, 7);
}

TEST(TokenizerGoldenTest, KnowsTheIdsThatArePublic) {
  const Tokenizer& tokenizer = RealTokenizer();
  EXPECT_EQ(*tokenizer.EncodeText("<think>"), (Ids{60, 37959, 62}));
  EXPECT_EQ(*tokenizer.EncodeText("</think>"), (Ids{1579, 37959, 62}));
  EXPECT_EQ(tokenizer.SpecialTokenId("<beginning_of_sentence>"), 200019);
  EXPECT_EQ(tokenizer.SpecialTokenId("<end_of_sentence>"), 200020);
  EXPECT_EQ(tokenizer.SpecialTokenId("<end_of_document>"), 200021);
  EXPECT_EQ(tokenizer.SpecialTokenId("<begin_of_document>"), 200034);
  EXPECT_EQ(tokenizer.vocab_size(), 200064);
}

class CheckpointTokenizerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(CheckpointTokenizerTest, EncodesItsRecordedTexts) {
  const std::string folder = std::string("tests/golden/") + GetParam();
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto rows = ParseJson(ReadWholeFile(folder + "/tokenizer_golden.json"));
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_GT(rows->items.size(), 5u);
  for (const JsonValue& row : rows->items) {
    const std::string text = *StringAt(row, "text");
    const Ids ids = *IdsAt(row, "ids");
    const Ids special_ids = *IdsAt(row, "ids_special_tokens_parsed");
    EXPECT_EQ(*(*tokenizer)->EncodeText(text), ids) << text;
    EXPECT_EQ(*(*tokenizer)->EncodeWithSpecials(text), special_ids) << text;
    EXPECT_EQ((*tokenizer)->DecodeText(ids), text);
    EXPECT_EQ((*tokenizer)->DecodeText(special_ids), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, CheckpointTokenizerTest,
                         ::testing::Values("mini-fp32", "mini-bf16", "shared-fp32", "hf-fp32",
                                           "hf-mixtral-names-fp32"));

TEST(TokenizerGoldenTest, LoadsTheEmbeddedCheckpoint) {
  const auto tokenizer = Tokenizer::Load("models/tiny");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "The lamp was lit, and 3 boats came home — \u4e2d\u6587 \U0001f600\n\n";
  EXPECT_EQ((*tokenizer)->DecodeText(*(*tokenizer)->EncodeText(text)), text);
  EXPECT_EQ((*tokenizer)->vocab_size(), 512);
  EXPECT_EQ((*tokenizer)->SpecialTokenId("<end_of_sentence>"), 509);
}

}  // namespace
}  // namespace m1
