#include "common/base/affinity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

TEST(AffinityTest, AThreadMayUseSomeCoresAndRunsOnOneOfThem) {
  ASSERT_OK_AND_ASSIGN(const std::vector<int> cores, AllowedCores());
  ASSERT_FALSE(cores.empty());
  EXPECT_TRUE(std::is_sorted(cores.begin(), cores.end()));
  EXPECT_THAT(cores, testing::Contains(sched_getcpu()));
}

TEST(AffinityTest, PinningHoldsForTheCallingThreadAlone) {
  ASSERT_OK_AND_ASSIGN(const std::vector<int> cores, AllowedCores());
  for (const int core : cores) {
    std::thread([core] {
      ASSERT_OK(PinThisThread(core));
      EXPECT_EQ(AllowedCores().value(), std::vector<int>{core});
      EXPECT_EQ(sched_getcpu(), core);
    }).join();
  }
  EXPECT_EQ(AllowedCores().value(), cores);
}

TEST(AffinityTest, CoresThatAreNotThereAreErrors) {
  EXPECT_THAT(PinThisThread(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("core -1, wanted")));
  EXPECT_THAT(PinThisThread(1 << 16), StatusIs(absl::StatusCode::kInvalidArgument,
                                               testing::HasSubstr("wanted 0 to 65535")));
  EXPECT_THAT(PinThisThread(65535),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("core 65535: ")));
}

TEST(AffinityTest, CoresAreShownAsTheSystemShowsThem) {
  EXPECT_EQ(FormatCores({}), "");
  EXPECT_EQ(FormatCores({3}), "3");
  EXPECT_EQ(FormatCores({0, 1, 12}), "0,1,12");
}

}  // namespace
}  // namespace m1
