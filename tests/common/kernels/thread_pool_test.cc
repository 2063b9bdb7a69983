#include "common/kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include "common/base/affinity.h"
#include "common/base/mutex.h"
#include "common/kernels/exact_math.h"

namespace m1 {
namespace {

TEST(ThreadPoolTest, CoversEveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t items : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {0, 1, 3, 5000}) {
        // Plain integers: two threads on one item would be a race.
        std::vector<int> visits(static_cast<size_t>(items));
        pool.ParallelFor(items, grain, [&](int64_t begin, int64_t end) {
          ASSERT_LT(begin, end);
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        for (const int count : visits) ASSERT_EQ(count, 1) << threads << " " << items;
      }
    }
  }
}

TEST(ThreadPoolTest, RangesHoldTheGrain) {
  ThreadPool pool(3);
  pool.ParallelFor(
      1000, 90, [](int64_t begin, int64_t end) { EXPECT_TRUE(end - begin >= 90 || end == 1000); });
}

TEST(ThreadPoolTest, OneThreadIsTheCaller) {
  ThreadPool pool(1);
  EXPECT_EQ(pool.num_threads(), 1);
  pool.ParallelFor(100, 1, [caller = std::this_thread::get_id()](int64_t, int64_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST(ThreadPoolTest, SmallJobsStayOnTheCaller) {
  ThreadPool pool(4);
  pool.ParallelFor(10, 10, [caller = std::this_thread::get_id()](int64_t, int64_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST(ThreadPoolTest, AllThreadsTakePart) {
  ThreadPool pool(3);
  for (int job = 0; job < 20; ++job) {
    std::atomic<int> arrived{0};
    Mutex mutex;
    std::set<std::thread::id> threads;
    // Nobody goes on before all are here, so that sleepers must wake.
    pool.ParallelFor(3, 1, [&](int64_t, int64_t) {
      {
        MutexLock lock(&mutex);
        threads.insert(std::this_thread::get_id());
      }
      arrived.fetch_add(1);
      while (arrived.load() < 3) std::this_thread::yield();
    });
    EXPECT_EQ(threads.size(), 3U);
  }
}

TEST(ThreadPoolTest, NobodyWaitsForALaggard) {
  ThreadPool pool(3);
  constexpr int64_t kItems = 1000;
  for (int job = 0; job < 20; ++job) {
    std::atomic<bool> has_laggard{false};
    std::atomic<int64_t> done{0};
    // Whoever comes first returns when the others have done all that it did not take.
    pool.ParallelFor(kItems, 1, [&](int64_t begin, int64_t end) {
      if (!has_laggard.exchange(true)) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        while (done.load() < kItems - (end - begin)) {
          ASSERT_LT(std::chrono::steady_clock::now(), deadline);
          std::this_thread::yield();
        }
      }
      done.fetch_add(end - begin);
    });
    EXPECT_EQ(done.load(), kItems);
  }
}

TEST(ThreadPoolTest, ManyJobsInARowSeeOneAnothersResults) {
  ThreadPool pool(3);
  std::vector<int64_t> values(64, 0);
  for (int64_t job = 1; job <= 5000; ++job) {
    pool.ParallelFor(64, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t& value = values[static_cast<size_t>(i)];
        ASSERT_EQ(value, job - 1);
        value = job;
      }
    });
  }
}

TEST(ThreadPoolTest, WorkersFlushDenormals) {
  const ScopedFlushDenormals flush;  // the caller's part
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  pool.ParallelFor(2, 1, [&](int64_t, int64_t) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
    volatile float smallest = std::numeric_limits<float>::min();
    EXPECT_EQ(smallest * 0.5f, 0.0f);
  });
}

TEST(ThreadPoolTest, ThreadsStayOnTheirCores) {
  const std::vector<int> cores = AllowedCores().value();
  const int num_threads = static_cast<int>(cores.size());
  // The caller is pinned too: not the one that runs the other tests.
  std::thread([&] {
    ThreadPool pool(num_threads, cores);
    std::atomic<int> arrived{0};
    Mutex mutex;
    std::multiset<int> seen;
    pool.ParallelFor(num_threads, 1, [&](int64_t, int64_t) {
      const std::vector<int> mine = AllowedCores().value();
      {
        MutexLock lock(&mutex);
        seen.insert(mine.begin(), mine.end());
      }
      arrived.fetch_add(1);
      while (arrived.load() < num_threads) std::this_thread::yield();
    });
    EXPECT_EQ(seen, std::multiset<int>(cores.begin(), cores.end()));
    EXPECT_EQ(AllowedCores().value(), std::vector<int>{cores[0]});
  }).join();
  EXPECT_EQ(AllowedCores().value(), cores);
}

TEST(ThreadPoolTest, ACoreThatIsNotThereLeavesItsThreadFree) {
  const std::vector<int> cores = AllowedCores().value();
  ThreadPool pool(2, {cores.back(), 60000});
  std::thread([&] {
    std::atomic<int> arrived{0};
    Mutex mutex;
    std::set<std::vector<int>> seen;
    pool.ParallelFor(2, 1, [&](int64_t, int64_t) {
      {
        MutexLock lock(&mutex);
        seen.insert(AllowedCores().value());
      }
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(seen, (std::set<std::vector<int>>{{cores.back()}, cores}));
  }).join();
}

TEST(ThreadPoolTest, StopsWhileWorkersWait) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace m1
