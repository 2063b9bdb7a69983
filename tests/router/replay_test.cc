// Workers that drop, pause, die and come back: the client sees one stream without gap.
#include <gmock/gmock.h>

#include <thread>

#include "absl/time/clock.h"

#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

using testing::HasSubstr;

class ReplayTest : public RouterFixture {
 protected:
  // A request in a thread of its own.
  void StartGenerating(const v1::GenerateRequest& request) {
    client_ = std::thread([this, request] { result_ = Generate(request); });
  }
  const StreamResult& Join() {
    client_.join();
    return result_;
  }
  // Steps of one worker so far, as its sequence count cannot tell.
  bool WaitForStart(int worker, size_t count = 1) {
    return Eventually(
        [&] { return workers_[static_cast<size_t>(worker)]->starts().size() >= count; });
  }

  static v1::GenerateRequest SeededRequest(std::vector<int32_t> prompt, int max_new_tokens,
                                           uint64_t seed) {
    v1::GenerateRequest request = TokenRequest(std::move(prompt), max_new_tokens);
    request.mutable_sampling()->set_seed(seed);
    return request;
  }

  std::thread client_;
  StreamResult result_;
};

// A read fails then, too, but the worker does not end the stream: the router must.
TEST_F(ReplayTest, EventThatCannotBeParsedLosesTheWorker) {
  const std::string whole = "abcdef";
  AddWorker({.script =
                 [whole, num_starts = 0](const v1::Start&) mutable {
                   const size_t size = num_starts++ == 0 ? 2 : whole.size();
                   return std::vector<int32_t>(whole.begin(),
                                               whole.begin() + static_cast<std::ptrdiff_t>(size));
                 },
             .error_message = "\xFF"});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const StreamResult result = Generate(SeededRequest({1}, static_cast<int>(whole.size()), 1));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.Text(), whole);
  EXPECT_EQ(workers_[0]->starts().size(), 2U);
}

TEST_F(ReplayTest, PreemptedSequenceGoesOn) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  StartGenerating(SeededRequest({1, 2}, 400, 5));
  for (size_t i = 1; i <= 4; ++i) {
    ASSERT_TRUE(WaitForStart(0, i));
    absl::SleepFor(absl::Milliseconds(30));
    workers_[0]->PreemptAll();
  }
  const StreamResult& result = Join();
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.Ids(), FakeAnswer({1, 2}, 5, 400));
  const auto starts = workers_[0]->starts();
  EXPECT_GE(starts.size(), 5U);
  EXPECT_GT(starts.back().token_ids_size(), 2);
  EXPECT_EQ(starts.back().prompt_token_count(), 2);
}

TEST_F(ReplayTest, PausedSequenceIsContinued) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  StartGenerating(SeededRequest({1, 2}, 200, 5));
  ASSERT_TRUE(WaitForStart(0));
  workers_[0]->PauseAll();
  const StreamResult& result = Join();
  EXPECT_EQ(result.Ids(), FakeAnswer({1, 2}, 5, 200));
  EXPECT_EQ(workers_[0]->num_continues(), 1);
}

TEST_F(ReplayTest, AnotherWorkerTakesOver) {
  AddWorker();
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  ASSERT_TRUE(Eventually([this] { return GetLoad().workers(1).ready(); }));
  std::vector<std::thread> clients;
  std::vector<StreamResult> results(20);
  for (size_t i = 0; i < results.size(); ++i) {
    clients.emplace_back([this, i, &results] {
      v1::GenerateRequest request = SeededRequest({static_cast<int32_t>(i), 2}, 300, i);
      request.mutable_output()->set_prompt_logprobs(i % 2 == 0);
      results[i] = Generate(request);
    });
  }
  ASSERT_TRUE(WaitForStart(0, 10));
  ASSERT_TRUE(WaitForStart(1, 10));
  absl::SleepFor(absl::Milliseconds(50));
  workers_[0]->Die();
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status.error_message();
    EXPECT_EQ(results[i].Ids(), FakeAnswer({static_cast<int32_t>(i), 2}, i, 300));
    EXPECT_EQ(results[i].PromptTokens().size(), i % 2 == 0 ? 2U : 0U);
    EXPECT_EQ(results[i].num_finishes(), 1);
  }
  EXPECT_GT(workers_[1]->starts().size(), 10U);
}

TEST_F(ReplayTest, TheSameWorkerTakesOverWhenItIsBack) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  StartGenerating(SeededRequest({7}, 300, 1));
  ASSERT_TRUE(WaitForStart(0));
  absl::SleepFor(absl::Milliseconds(50));
  workers_[0]->Die();
  ASSERT_TRUE(Eventually([this] { return !IsServing(); }));
  ReviveWorker(0);
  const StreamResult& result = Join();
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.Ids(), FakeAnswer({7}, 1, 300));
  EXPECT_TRUE(IsServing());
}

TEST_F(ReplayTest, NobodyTakesOverWithAnotherIdentity) {
  AddWorker();
  RouterOptions options;
  options.worker_loss_timeout = absl::Milliseconds(500);
  StartRouter(options);
  ASSERT_TRUE(WaitUntilServing());
  StartGenerating(SeededRequest({7}, 100000, 1));
  ASSERT_TRUE(WaitForStart(0));
  absl::SleepFor(absl::Milliseconds(50));
  workers_[0]->Die();
  ReviveWorker(0, {.fingerprint = std::string(64, 'b')});
  const StreamResult& result = Join();
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(result.num_finishes(), 0);
  // New requests are served by the new fleet.
  EXPECT_TRUE(Generate(TokenRequest({1}, 3)).status.ok());
}

TEST_F(ReplayTest, WorkerOfAnotherIdentityIsRefusedAndNamed) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  router_.reset();
  AddWorker({.fingerprint = std::string(64, 'b')});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const auto refused = [this] {
    grpc::ClientContext context;
    v1::GetTopologyResponse topology;
    EXPECT_TRUE(control_->GetTopology(&context, {}, &topology).ok());
    int count = 0;
    for (const auto& worker : topology.attention_workers()) {
      count += worker.last_error().find("identity differs") != std::string::npos ? 1 : 0;
    }
    return count == 1;
  };
  EXPECT_TRUE(Eventually(refused));
}

TEST_F(ReplayTest, WorkersMayComeLate) {
  AddWorker();
  FakeWorkerOptions options{.port = workers_[0]->port()};
  // Whoever asks for a free port now may get the worker's: the router gets one of its own.
  FakeAttentionWorker placeholder;
  RouterOptions router_options;
  router_options.port = placeholder.port();
  workers_[0]->Die();
  placeholder.Die();
  StartRouter(router_options);
  EXPECT_FALSE(IsServing());
  StartGenerating(SeededRequest({3}, 5, 2));
  ASSERT_TRUE(Eventually([this] { return GetLoad().queued_request_count() == 1; }));
  ReviveWorker(0, options);
  const StreamResult& result = Join();
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.Ids(), FakeAnswer({3}, 2, 5));
}

TEST_F(ReplayTest, WithoutWorkersARequestEndsUnavailable) {
  AddWorker();
  workers_[0]->Die();
  RouterOptions options;
  options.worker_loss_timeout = absl::Milliseconds(300);
  StartRouter(options);
  const StreamResult result = Generate(TokenRequest({1}, 1));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(result.status.error_message(), HasSubstr("no attention worker"));
}

TEST_F(ReplayTest, WorkerThatIsNotReadyIsNotServing) {
  AddWorker({.is_ready = false});
  StartRouter();
  ASSERT_TRUE(Eventually([this] { return GetLoad().workers(0).has_limits(); }));
  EXPECT_FALSE(IsServing());
  workers_[0]->SetReady(true);
  EXPECT_TRUE(WaitUntilServing());
  workers_[0]->SetReady(false);
  EXPECT_TRUE(Eventually([this] { return !IsServing(); }));
}

}  // namespace
}  // namespace m1
