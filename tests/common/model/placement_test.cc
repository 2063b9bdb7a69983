#include "common/model/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(PlacementTest, ReadsListsAndRanges) {
  EXPECT_THAT(*ParseExpertList("0", 8), ElementsAre(0));
  EXPECT_THAT(*ParseExpertList("7,0-2", 8), ElementsAre(0, 1, 2, 7));
  EXPECT_THAT(*ParseExpertList("3-3", 8), ElementsAre(3));
  EXPECT_EQ(ParseExpertList("0-31", 32)->size(), 32U);
}

TEST(PlacementTest, RefusesBadListsSayingWhy) {
  const struct {
    const char* text;
    const char* fragment;
  } cases[] = {
      {"", "\"\" in \"\" is not a number"},
      {",", "is not a number"},
      {"1,", "\"\" in \"1,\" is not a number"},
      {"a", "\"a\" in \"a\" is not a number"},
      {"-1", "is not a number"},
      {"1-", "is not a number"},
      {"1-2-3", "\"2-3\" in \"1-2-3\" is not a number"},
      {" 1", "\" 1\" in \" 1\" is not a number"},
      {"+1", "is not a number"},
      {"1.5", "is not a number"},
      {"99999999999999999999", "is not a number"},
      {"5-3", "range \"5-3\" in \"5-3\" runs backwards"},
      {"8", "expert 8 in \"8\", the model has experts 0 to 7"},
      {"0-2147483647", "expert 2147483647 in"},
      {"1,1", "expert 1 stands twice in \"1,1\""},
      {"0-4,2", "expert 2 stands twice"},
      {"0-7,0-7,0-7", "stands twice"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ParseExpertList(c.text, 8),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.fragment)))
        << c.text;
  }
}

TEST(PlacementTest, ShardsCoverAllExpertsOnceAndAreEven) {
  for (const int32_t num_experts : {1, 7, 8, 32}) {
    for (int32_t count = 1; count <= num_experts; ++count) {
      std::vector<int32_t> all;
      for (int32_t index = 0; index < count; ++index) {
        ASSERT_OK_AND_ASSIGN(
            const std::vector<int32_t> shard,
            ParseShard(std::to_string(index) + "/" + std::to_string(count), num_experts));
        const auto size = static_cast<int32_t>(shard.size());
        EXPECT_GE(size, num_experts / count);
        EXPECT_LE(size, (num_experts + count - 1) / count);
        all.insert(all.end(), shard.begin(), shard.end());
      }
      ASSERT_EQ(all.size(), static_cast<size_t>(num_experts));
      for (int32_t expert = 0; expert < num_experts; ++expert) {
        EXPECT_EQ(all[static_cast<size_t>(expert)], expert);
      }
    }
  }
}

TEST(PlacementTest, RefusesBadShardsSayingWhy) {
  const struct {
    const char* text;
    const char* fragment;
  } cases[] = {
      {"", "\"\" is not of the form I/N"},
      {"1", "\"1\" is not of the form I/N"},
      {"1/2/3", "is not of the form I/N"},
      {"/", "is not a number"},
      {"a/2", "\"a\" in \"a/2\" is not a number"},
      {"-1/2", "is not a number"},
      {"0/0", "\"0/0\" has 0 shards, wanted 1 to 8"},
      {"0/9", "\"0/9\" has 9 shards, wanted 1 to 8"},
      {"2/2", "shard 2 in \"2/2\", shards are 0 to 1"},
      {"0/4294967296", "is not a number"},
      {"pod-/2", "\"\" in \"pod-/2\" is not a number"},
      {"pod-a/2", "\"a\" in \"pod-a/2\" is not a number"},
      {"$(POD_NAME)/2", "\"$(POD_NAME)\" in"},
      {"pod-1/0", "has 0 shards"},
      {"pod-99999999999/2", "is not a number"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ParseShard(c.text, 8),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.fragment)))
        << c.text;
  }
}

TEST(PlacementTest, APodsOrdinalIsItsShard) {
  EXPECT_THAT(*ParseShard("m1-expert-worker-0/4", 8), ElementsAre(0, 1));
  EXPECT_THAT(*ParseShard("m1-expert-worker-3/4", 8), ElementsAre(6, 7));
  EXPECT_THAT(*ParseShard("m1-expert-worker-4/4", 8), ElementsAre(0, 1));  // a copy of share 0
  EXPECT_THAT(*ParseShard("x-11/4", 8), ElementsAre(6, 7));
}

TEST(PlacementTest, FormatIsTheInverseOfParse) {
  for (const char* text : {"0", "0-7", "0-7,12", "1,3,5-6,31", "30-31"}) {
    EXPECT_EQ(FormatExpertList(*ParseExpertList(text, 32)), text);
  }
  EXPECT_EQ(FormatExpertList({}), "");
}

}  // namespace
}  // namespace m1
