#include "expert_worker/engine.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "tests/expert_worker/random_experts.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;

// Records the layers and job counts of its runs; the first run waits until it is let go.
class RecordingExecutor final : public ExpertExecutor {
 public:
  const std::vector<int32_t>& hosted_experts() const override { return experts_; }
  absl::Status ValidateJob(const ExpertJob&) const override { return absl::OkStatus(); }
  absl::Status Execute(std::span<const ExpertJob> jobs) override {
    if (runs_.empty()) {
      started_.Set();
      gate_.Wait();
    }
    runs_.emplace_back(jobs.front().layer, jobs.size());
    return result_;
  }

  // A latch over our own mutex, which TSan understands.
  class Latch {
   public:
    void Set() {
      MutexLock lock(&mutex_);
      set_ = true;
      changed_.SignalAll();
    }
    void Wait() {
      MutexLock lock(&mutex_);
      while (!set_) changed_.Wait(&mutex_);
    }

   private:
    Mutex mutex_;
    CondVar changed_;
    bool set_ ABSL_GUARDED_BY(mutex_) = false;
  };

  std::vector<int32_t> experts_ = {0};
  absl::Status result_;
  std::vector<std::pair<int32_t, size_t>> runs_;
  Latch started_;
  Latch gate_;
};

class EngineTest : public testing::Test {
 protected:
  EngineTest() : rows_(DType::kF32, {2, 8}) {}

  EngineJob Job(int32_t layer, int64_t client = 0) {
    return {client, {layer, rows_.view(), {}, {}}, [this](const absl::Status& status) {
              results_.push_back(status);
            }};
  }

  Tensor rows_;
  RecordingExecutor executor_;
  std::vector<absl::Status> results_;  // the engine's thread, read after Stop
};

TEST_F(EngineTest, WaitingJobsOfOneLayerRunTogether) {
  Engine engine(&executor_, {});
  ASSERT_TRUE(engine.TrySubmit(Job(0)));
  executor_.started_.Wait();
  for (const int32_t layer : {3, 4, 3, 4, 3}) ASSERT_TRUE(engine.TrySubmit(Job(layer)));
  executor_.gate_.Set();
  engine.Stop();
  EXPECT_THAT(executor_.runs_, ElementsAre(std::pair(0, 1), std::pair(3, 3), std::pair(4, 2)));
  EXPECT_EQ(results_.size(), 6U);
  EXPECT_EQ(engine.stats().num_jobs, 6);
  EXPECT_EQ(engine.stats().num_runs, 3);
  EXPECT_EQ(engine.stats().num_rows, 12);
}

TEST_F(EngineTest, ARunThatStandsStillIsKnown) {
  FakeClock clock;
  Watchdog watchdog(absl::Minutes(5), &clock);
  EngineOptions options;
  options.heartbeat = watchdog.Add("batch loop");
  Engine engine(&executor_, options);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(watchdog.WhyStuck(), "");  // without work
  ASSERT_TRUE(engine.TrySubmit(Job(0)));
  executor_.started_.Wait();
  clock.Advance(absl::Minutes(5));
  EXPECT_EQ(watchdog.WhyStuck(), "");
  clock.Advance(absl::Seconds(1));
  EXPECT_THAT(watchdog.WhyStuck(), testing::HasSubstr("batch loop"));
  executor_.gate_.Set();
  engine.Stop();
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(watchdog.WhyStuck(), "");
}

TEST_F(EngineTest, RunsAreBoundedByRows) {
  EngineOptions options;
  options.max_run_rows = 5;  // two jobs of two rows
  Engine engine(&executor_, options);
  ASSERT_TRUE(engine.TrySubmit(Job(0)));
  executor_.started_.Wait();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine.TrySubmit(Job(1)));
  executor_.gate_.Set();
  engine.Stop();
  EXPECT_THAT(executor_.runs_,
              ElementsAre(std::pair(0, 1), std::pair(1, 2), std::pair(1, 2), std::pair(1, 1)));
}

TEST_F(EngineTest, RefusesWhenFullAndAfterStop) {
  EngineOptions options;
  options.max_queued_jobs = 2;
  Engine engine(&executor_, options);
  ASSERT_TRUE(engine.TrySubmit(Job(0)));
  executor_.started_.Wait();
  EXPECT_TRUE(engine.TrySubmit(Job(0)));
  EXPECT_TRUE(engine.TrySubmit(Job(0)));
  EXPECT_FALSE(engine.TrySubmit(Job(0)));
  executor_.gate_.Set();
  engine.Stop();
  EXPECT_FALSE(engine.TrySubmit(Job(0)));
  EXPECT_EQ(results_.size(), 3U);
}

TEST_F(EngineTest, ReportsTheExecutorsErrorToEveryJobOfTheRun) {
  executor_.result_ = absl::InternalError("broken");
  executor_.gate_.Set();
  Engine engine(&executor_, {});
  ASSERT_TRUE(engine.TrySubmit(Job(0)));
  engine.Stop();
  ASSERT_EQ(results_.size(), 1U);
  EXPECT_EQ(results_[0], executor_.result_);
}

TEST_F(EngineTest, WaitsForAnotherActiveClient) {
  EngineOptions options;
  options.gather_time = absl::Seconds(60);  // ends as soon as the other's job is there
  options.active_time = absl::Seconds(60);
  Engine engine(&executor_, options);
  ASSERT_TRUE(engine.TrySubmit(Job(0, 1)));
  executor_.started_.Wait();
  ASSERT_TRUE(engine.TrySubmit(Job(1, 2)));
  ASSERT_TRUE(engine.TrySubmit(Job(1, 1)));
  executor_.gate_.Set();
  // Both clients are active from here on.
  ASSERT_TRUE(engine.TrySubmit(Job(2, 1)));
  ASSERT_TRUE(engine.TrySubmit(Job(2, 2)));
  engine.Stop();
  EXPECT_THAT(executor_.runs_, ElementsAre(std::pair(0, 1), std::pair(1, 2), std::pair(2, 2)));
}

TEST_F(EngineTest, DoesNotWaitLongForAClientThatSendsNothing) {
  EngineOptions options;
  options.gather_time = absl::Milliseconds(1);
  options.active_time = absl::Seconds(60);
  Engine engine(&executor_, options);
  ASSERT_TRUE(engine.TrySubmit(Job(0, 1)));
  ASSERT_TRUE(engine.TrySubmit(Job(1, 2)));
  executor_.gate_.Set();
  engine.Stop();
  EXPECT_EQ(results_.size(), 2U);
}

TEST_F(EngineTest, ForgetsAClientThatWentQuiet) {
  EngineOptions options;
  options.gather_time = absl::Hours(1);  // a wait for the quiet client would never end
  options.active_time = absl::ZeroDuration();
  Engine engine(&executor_, options);
  ASSERT_TRUE(engine.TrySubmit(Job(0, 1)));
  executor_.started_.Wait();
  executor_.gate_.Set();
  RecordingExecutor::Latch done;
  EngineJob job = Job(1, 2);
  job.done = [&done](const absl::Status&) { done.Set(); };
  ASSERT_TRUE(engine.TrySubmit(std::move(job)));
  done.Wait();
}

TEST(EngineWithExpertsTest, ManyThreadsGetTheirOwnRows) {
  constexpr ExpertModelShape kShape = {
      .num_layers = 2, .num_experts = 4, .hidden_size = 32, .intermediate_size = 16};
  const RandomExperts weights(kShape, DType::kBf16);
  LocalExperts local(weights, {0, 1, 2, 3}, DType::kBf16);
  Engine engine(&local.executor, {});
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 3; ++client) {
    clients.emplace_back([&, client] {
      for (uint32_t round = 0; round < 20; ++round) {
        RandomBatch batch(kShape, DType::kBf16, 1 + round % 5, client * 100 + round);
        std::vector<RowExpert> pairs;
        for (size_t i = 0; i < batch.expert_ids.size(); ++i) {
          pairs.push_back({static_cast<int32_t>(i / 2), batch.expert_ids[i]});
        }
        RecordingExecutor::Latch done;
        absl::Status result;
        EngineJob job = {
            client,
            {batch.layer, batch.rows.view(), pairs,
             batch.out.view().Reshape({static_cast<int64_t>(pairs.size()), kShape.hidden_size})},
            [&](const absl::Status& status) {
              result = status;
              done.Set();
            }};
        ASSERT_TRUE(engine.TrySubmit(std::move(job)));
        done.Wait();
        ASSERT_OK(result);
        ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights, batch));
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace m1
