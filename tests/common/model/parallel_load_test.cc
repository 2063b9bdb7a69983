#include "common/model/parallel_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

TEST(ParallelLoadTest, LoadsEveryPieceOnceAndCountsAcrossRuns) {
  std::vector<int64_t> done;
  const PrefetchProgress progress = [&](int64_t done_bytes, int64_t total_bytes) {
    EXPECT_EQ(total_bytes, 110);
    done.push_back(done_bytes);
    return true;
  };
  ParallelLoad job(110, progress);
  std::vector<std::atomic<int>> visits(100);
  ASSERT_OK(job.Run(100, [&](size_t i) -> absl::StatusOr<int64_t> {
    visits[i].fetch_add(1);
    return 1;
  }));
  for (const std::atomic<int>& count : visits) EXPECT_EQ(count.load(), 1);
  ASSERT_OK(job.Run(1, [](size_t) -> absl::StatusOr<int64_t> { return 10; }));
  ASSERT_EQ(done.size(), 101U);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(done[i], static_cast<int64_t>(i) + 1);
  EXPECT_EQ(done.back(), 110);
}

TEST(ParallelLoadTest, NothingToLoadIsDone) {
  const PrefetchProgress progress;
  ParallelLoad job(0, progress);
  EXPECT_OK(job.Run(0, [](size_t) -> absl::StatusOr<int64_t> {
    ADD_FAILURE();
    return 0;
  }));
}

TEST(ParallelLoadTest, TheFirstErrorEndsIt) {
  int num_progress = 0;
  const PrefetchProgress progress = [&](int64_t, int64_t) {
    ++num_progress;
    return true;
  };
  ParallelLoad job(1000, progress);
  std::atomic<int> num_loads{0};
  EXPECT_THAT(job.Run(1000,
                      [&](size_t i) -> absl::StatusOr<int64_t> {
                        num_loads.fetch_add(1);
                        if (i >= 10) return absl::DataLossError("bad piece");
                        return 1;
                      }),
              StatusIs(absl::StatusCode::kDataLoss, "bad piece"));
  EXPECT_LE(num_progress, 10);
  EXPECT_LT(num_loads.load(), 1000);
}

TEST(ParallelLoadTest, ProgressStopsItAndIsNotAskedAgain) {
  int num_progress = 0;
  const PrefetchProgress progress = [&](int64_t, int64_t) { return ++num_progress < 3; };
  ParallelLoad job(1000, progress);
  EXPECT_THAT(job.Run(1000, [](size_t) -> absl::StatusOr<int64_t> { return 1; }),
              StatusIs(absl::StatusCode::kCancelled, "loading was stopped"));
  EXPECT_EQ(num_progress, 3);
}

}  // namespace
}  // namespace m1
