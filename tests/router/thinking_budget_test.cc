#include "router/thinking_budget.h"

#include <gmock/gmock.h>

#include "gtest/gtest.h"

#include "tests/router/text_pieces.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Optional;

class ThinkingBudgetTest : public testing::Test {
 protected:
  ThinkingBudget Make(int32_t budget) {
    return {ThinkingLimit{.budget_tokens = budget, .closing_ids = {kFirst, kSecond}}, &pieces_};
  }
  void Record(ThinkingBudget* budget, const std::vector<std::string>& texts) {
    for (const std::string& text : texts) EXPECT_TRUE(budget->Record(pieces_.Id(text)));
  }

  TextPieces pieces_{{"\n</think>", "\n\n"}};
  const int32_t kFirst = 0;
  const int32_t kSecond = 1;
};

TEST_F(ThinkingBudgetTest, PausesWhereTheThoughtMayBeUsedUpFirst) {
  ThinkingBudget budget = Make(3);
  EXPECT_THAT(budget.pause_at(), Optional(4));  // one token opens, three think
  EXPECT_TRUE(budget.pause_is_provisional());
  Record(&budget, {"\n", "<think"});
  EXPECT_THAT(budget.pause_at(), Optional(6));
  EXPECT_TRUE(budget.pause_is_provisional());
  Record(&budget, {">\n"});
  EXPECT_THAT(budget.pause_at(), Optional(6));
  EXPECT_FALSE(budget.pause_is_provisional());
  Record(&budget, {"a", "b"});
  EXPECT_THAT(budget.pause_at(), Optional(6));
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
}

TEST_F(ThinkingBudgetTest, FeedsOnceTheBudgetIsUsedUp) {
  ThinkingBudget budget = Make(2);
  Record(&budget, {"<think>", "a", "b"});
  EXPECT_THAT(budget.ids_to_feed(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(budget.pause_at(), std::nullopt);
  EXPECT_TRUE(budget.Record(kFirst));
  EXPECT_THAT(budget.ids_to_feed(), ElementsAre(kSecond));
  EXPECT_TRUE(budget.Record(kSecond));
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  Record(&budget, {"answer"});
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  EXPECT_EQ(budget.pause_at(), std::nullopt);
}

TEST_F(ThinkingBudgetTest, FeedsInsideATagAndInsideACharacter) {
  ThinkingBudget in_tag = Make(2);
  Record(&in_tag, {"<think>", "a", "</thi"});
  EXPECT_THAT(in_tag.ids_to_feed(), ElementsAre(kFirst, kSecond));
  ThinkingBudget in_character = Make(1);
  Record(&in_character, {"<think>", "\xE2\x82"});
  EXPECT_THAT(in_character.ids_to_feed(), ElementsAre(kFirst, kSecond));
}

TEST_F(ThinkingBudgetTest, AThoughtThatEndsInTimeIsLeftAlone) {
  ThinkingBudget budget = Make(3);
  Record(&budget, {"<think>", "a", "</", "think>"});
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  EXPECT_EQ(budget.pause_at(), std::nullopt);
}

TEST_F(ThinkingBudgetTest, AnAnswerWithoutThoughtIsLeftAlone) {
  ThinkingBudget budget = Make(1);
  Record(&budget, {"No", "<think>", "a", "b"});
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  EXPECT_EQ(budget.pause_at(), std::nullopt);
  EXPECT_FALSE(budget.pause_is_provisional());
}

TEST_F(ThinkingBudgetTest, NoBudgetFeedsBeforeTheFirstToken) {
  ThinkingBudget budget = Make(0);
  EXPECT_THAT(budget.ids_to_feed(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(budget.pause_at(), std::nullopt);
}

TEST_F(ThinkingBudgetTest, AClosingTextThatClosesNothingIsNotRepeated) {
  const int32_t hurry = pieces_.Id("hurry");
  ThinkingBudget budget({.budget_tokens = 1, .closing_ids = {hurry}}, &pieces_);
  Record(&budget, {"<think>", "a"});
  EXPECT_THAT(budget.ids_to_feed(), ElementsAre(hurry));
  Record(&budget, {"hurry", "b", "c"});
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  EXPECT_EQ(budget.pause_at(), std::nullopt);
}

TEST_F(ThinkingBudgetTest, ControlTokensCountAndSayNothing) {
  ThinkingBudget budget = Make(2);
  EXPECT_TRUE(budget.Record(-1));
  Record(&budget, {"<think>"});
  EXPECT_TRUE(budget.Record(-1));
  EXPECT_THAT(budget.ids_to_feed(), IsEmpty());
  EXPECT_TRUE(budget.Record(-1));
  EXPECT_THAT(budget.ids_to_feed(), ElementsAre(kFirst, kSecond));
}

TEST_F(ThinkingBudgetTest, AnotherTokenThanTheFedOneIsToldApart) {
  ThinkingBudget budget = Make(0);
  EXPECT_FALSE(budget.Record(kSecond));
}

}  // namespace
}  // namespace m1
