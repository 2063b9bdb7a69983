// Attention workers that come and go with their name's addresses.
#include "router/grpc_worker_fleet.h"

#include "gtest/gtest.h"

#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

class EndSink final : public SequenceSink {
 public:
  void OnStarted(absl::Time /*now*/) override {}
  SinkState OnPromptTokens(int32_t /*first_index*/, std::vector<AnswerToken> /*tokens*/) override {
    return SinkState::kTakesMore;
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    MutexLock lock(&mutex_);
    for (const AnswerToken& token : tokens) ids_.push_back(token.id);
    return SinkState::kTakesMore;
  }
  void OnFinished(AnswerEnd /*end*/, int32_t /*stop_token_id*/, absl::Time /*now*/) override {
    MutexLock lock(&mutex_);
    is_over_ = true;
  }
  void OnFailed(const absl::Status& status) override {
    ADD_FAILURE() << status.ToString();
    OnFinished(AnswerEnd::kError, 0, absl::InfinitePast());
  }

  bool is_over() {
    MutexLock lock(&mutex_);
    return is_over_;
  }
  std::vector<int32_t> ids() {
    MutexLock lock(&mutex_);
    return ids_;
  }

 private:
  Mutex mutex_;
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<int32_t> ids_ ABSL_GUARDED_BY(mutex_);
};

class WorkerFleetTest : public RouterFixture {
 protected:
  // A fleet behind one name, which stands for what SetNames says.
  void StartFleet() {
    fleet_ = std::make_unique<WorkerFleet>(
        WorkerFleetOptions{
            .addresses = {"dns:///workers:80"},
            .router_id = "test",
            .resolve_interval = absl::Milliseconds(20),
            .resolver = [this](const std::string& /*name*/, const std::string& /*port*/)
                -> absl::StatusOr<std::vector<std::string>> {
              MutexLock lock(&mutex_);
              return resolved_;
            }},
        &dispatcher_);
    fleet_->Start();
  }

  void Resolve(std::vector<std::string> addresses) {
    MutexLock lock(&mutex_);
    resolved_ = std::move(addresses);
  }

  bool WaitForReady(std::vector<bool> ready) {
    return Eventually([&] {
      std::vector<bool> now;
      for (const WorkerSnapshot& worker : dispatcher_.Snapshot().workers) {
        now.push_back(worker.is_ready);
      }
      return now == ready;
    });
  }

  void TearDown() override { fleet_.reset(); }

  RealClock clock_;
  Dispatcher dispatcher_{SchedulerOptions{}, &clock_, [](bool /*ready*/) {}};
  Mutex mutex_;
  std::vector<std::string> resolved_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<WorkerFleet> fleet_;
};

TEST_F(WorkerFleetTest, WorkersJoinAndLeaveWithTheirName) {
  for (int i = 0; i < 3; ++i) AddWorker();
  StartFleet();
  EXPECT_TRUE(fleet_->streams().empty());
  Resolve({workers_[0]->address()});
  EXPECT_TRUE(WaitForReady({true}));
  Resolve({workers_[1]->address(), workers_[0]->address()});
  EXPECT_TRUE(WaitForReady({true, true}));
  Resolve({workers_[1]->address()});
  EXPECT_TRUE(WaitForReady({false, true}));
  EXPECT_EQ(fleet_->streams()[0], nullptr);

  Resolve({workers_[1]->address(), workers_[2]->address()});
  EXPECT_TRUE(WaitForReady({true, true}));  // in the place that was left
  EXPECT_EQ(fleet_->streams()[0]->address(), workers_[2]->address());
  Resolve({});
  EXPECT_TRUE(WaitForReady({false, false}));
}

TEST_F(WorkerFleetTest, SequencesOfAWorkerThatLeavesGoOnElsewhere) {
  AddWorker();
  AddWorker();
  Resolve({workers_[0]->address()});
  StartFleet();
  ASSERT_TRUE(WaitForReady({true}));
  GenerationRequest request;
  request.prompt_ids = {1, 2};
  request.sampling.seed = 3;
  request.max_new_tokens = 500;
  const auto sink = std::make_shared<EndSink>();
  ASSERT_TRUE(dispatcher_.Submit(std::move(request), sink).ok());
  ASSERT_TRUE(Eventually([&] { return !sink->ids().empty(); }));

  Resolve({workers_[1]->address()});

  ASSERT_TRUE(Eventually([&] { return sink->is_over(); }));
  EXPECT_EQ(sink->ids(), FakeAnswer({1, 2}, 3, 500));
  EXPECT_EQ(workers_[1]->starts().size(), 1U);
}

}  // namespace
}  // namespace m1
