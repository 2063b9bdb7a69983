#include "attention_worker/logit_editor.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>
#include <vector>

namespace m1 {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

SequenceStart Start(const std::vector<int32_t>& prompt, const SamplingParams& sampling) {
  SequenceStart start;
  start.prompt_token_count = static_cast<int32_t>(prompt.size());
  start.sampling = sampling;
  return start;
}

// What the edits make of a row on which token v has the logit v - 4.
std::map<int32_t, float> Edited(std::span<const LogitEdit> edits) {
  std::map<int32_t, float> edited;
  for (const LogitEdit& edit : edits) {
    EXPECT_TRUE(
        edited.emplace(edit.id, EditedLogit(static_cast<float>(edit.id) - 4.0F, edit)).second)
        << "id " << edit.id << " twice";
  }
  return edited;
}

using Logits = std::map<int32_t, float>;

TEST(LogitEditorTest, NothingIsEditedByDefault) {
  LogitEditor editor(Start({1, 2}, {}));
  EXPECT_TRUE(editor.Next(std::vector<int32_t>{1, 2, 3, 3}).empty());
}

TEST(LogitEditorTest, RepetitionCountsPromptAndAnswer) {
  LogitEditor editor(Start({2, 6}, {.repetition_penalty = 2.0F}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{2, 6})), (Logits{{2, -4.0F}, {6, 1.0F}}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{2, 6, 8, 8, 4})),
            (Logits{{2, -4.0F}, {4, 0.0F}, {6, 1.0F}, {8, 2.0F}}));
}

TEST(LogitEditorTest, PresenceAndFrequencyCountTheAnswerAlone) {
  LogitEditor editor(Start({2, 6}, {.presence_penalty = 0.5F, .frequency_penalty = 0.25F}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{2, 6, 6, 8, 6})),
            (Logits{{6, 2.0F - 2 * 0.25F - 0.5F}, {8, 4.0F - 0.25F - 0.5F}}));
}

TEST(LogitEditorTest, GeneratedTokensOfThePromptCountAsGenerated) {
  SequenceStart start = Start({2, 6, 6}, {.presence_penalty = 1.0F});
  start.generated_prompt_token_count = 1;
  start.min_new_tokens = 2;
  start.stop_token_ids = {9};
  LogitEditor editor(start);
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{2, 6, 6})), (Logits{{6, 1.0F}, {9, kMasked}}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{2, 6, 6, 5})),
            (Logits{{5, 0.0F}, {6, 1.0F}, {9, 5.0F}}));
}

TEST(LogitEditorTest, BiasComesAfterThePenalty) {
  LogitEditor editor(
      Start({8}, {.repetition_penalty = 4.0F, .logit_bias = {{8, 3.0F}, {0, -1.5F}}}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{8})), (Logits{{0, -5.5F}, {8, 4.0F}}));
}

TEST(LogitEditorTest, TheMaskIsLastAndEnds) {
  SequenceStart start = Start({1}, {.presence_penalty = 1.0F, .logit_bias = {{7, 50.0F}}});
  start.min_new_tokens = 2;
  start.stop_token_ids = {7, 3};
  LogitEditor editor(start);
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{1})), (Logits{{3, kMasked}, {7, kMasked}}));
  // Fed, not drawn: it is counted all the same.
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{1, 7})), (Logits{{3, kMasked}, {7, kMasked}}));
  EXPECT_EQ(Edited(editor.Next(std::vector<int32_t>{1, 7, 5})),
            (Logits{{3, -1.0F}, {5, 0.0F}, {7, 52.0F}}));
}

// Whatever it was shown at a time, and after a resume, the edits are the same bits.
TEST(LogitEditorTest, EditsAreAFunctionOfTheTokens) {
  std::mt19937 random(3);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 400; ++i) tokens.push_back(static_cast<int32_t>(random() % 50));
  SequenceStart start;
  start.prompt_token_count = 100;
  start.sampling = {.repetition_penalty = 1.3F,
                    .presence_penalty = 0.1F,
                    .frequency_penalty = 0.7F,
                    .logit_bias = {{3, 0.3F}, {60, 1.0F}}};
  start.min_new_tokens = 200;
  start.stop_token_ids = {4, 70};
  LogitEditor grown(start);
  for (size_t size = 100; size <= 400; size += random() % 5) {
    const std::span<const int32_t> shown(tokens.data(), size);
    LogitEditor fresh(start);
    ASSERT_EQ(Edited(grown.Next(shown)), Edited(fresh.Next(shown))) << size;
  }
}

TEST(EditedLogitTest, StaysFinite) {
  const float huge = 3e38F;
  EXPECT_EQ(EditedLogit(huge, {.penalty = 1e-38F}), kMaxEditedLogit);
  EXPECT_EQ(EditedLogit(-huge, {.penalty = 10.0F}), -kMaxEditedLogit);
  EXPECT_EQ(EditedLogit(0.0F, {.penalty = 1e-45F}), 0.0F);
  EXPECT_EQ(EditedLogit(huge, {.offset = kMasked}), kMasked);
}

}  // namespace
}  // namespace m1
