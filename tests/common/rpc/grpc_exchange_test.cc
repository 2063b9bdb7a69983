#include "common/rpc/grpc_exchange.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"

#include "tests/expert_worker/local_expert_worker.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ExpertModelShape kShape = {
    .num_layers = 3, .num_experts = 8, .hidden_size = 48, .intermediate_size = 32};
const std::vector<int32_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

GrpcExchangeOptions ExchangeOptions(const std::vector<std::string>& addresses, DType dtype) {
  GrpcExchangeOptions options;
  options.addresses = addresses;
  options.peer.identity = TestIdentity(dtype);
  options.peer.num_experts = kShape.num_experts;
  options.peer.hidden_size = kShape.hidden_size;
  return options;
}

// Polls until `condition` holds; false after ten seconds.
template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

std::unique_ptr<GrpcExchange> MakeExchange(const GrpcExchangeOptions& options) {
  auto exchange = GrpcExchange::Create(options);
  M1_CHECK(exchange.ok());
  return *std::move(exchange);
}

class GrpcExchangeTest : public testing::TestWithParam<DType> {
 protected:
  GrpcExchangeTest() : weights_(kShape, GetParam()) {}

  std::unique_ptr<LocalExpertWorker> Worker(const std::vector<int32_t>& experts, int port = 0) {
    LocalExpertWorker::Options options;
    options.dtype = GetParam();
    options.experts = experts;
    options.port = port;
    return std::make_unique<LocalExpertWorker>(weights_, options);
  }

  // One batch through the exchange: the right bytes.
  void ExpectRightBytes(ExpertExchange* exchange, int64_t num_rows, uint32_t seed) {
    RandomBatch batch(kShape, GetParam(), num_rows, seed);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    ASSERT_OK(exchange->Combine());
    EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  }

  RandomExperts weights_;
};

TEST_P(GrpcExchangeTest, AnyNumberAndPlacementOfWorkersGivesTheSameBytes) {
  const std::vector<std::vector<std::vector<int32_t>>> splits = {
      {kAll},
      {{0, 1, 2, 3}, {4, 5, 6, 7}},
      {{0, 1}, {2, 3}, {4, 5}, {6, 7}},
      {{0, 7}, {1}, {2, 3, 4, 5, 6}},
      {{0, 1, 2, 3, 4, 5}, {3, 4, 5, 6, 7}}};
  for (const auto& split : splits) {
    std::vector<std::unique_ptr<LocalExpertWorker>> workers;
    std::vector<std::string> addresses;
    for (const std::vector<int32_t>& experts : split) {
      workers.push_back(Worker(experts));
      addresses.push_back(workers.back()->address());
    }
    const auto exchange = MakeExchange(ExchangeOptions(addresses, GetParam()));
    uint32_t seed = 0;
    for (const int64_t num_rows : {1, 2, 17, 300, 0, 1}) {
      ExpectRightBytes(exchange.get(), num_rows, ++seed);
    }
    EXPECT_THAT(exchange->MissingExperts(), IsEmpty());
  }
}

TEST_P(GrpcExchangeTest, FramesAreSplitAtTheRowsAPeerTakes) {
  LocalExpertWorker::Options options;
  options.dtype = GetParam();
  options.experts = kAll;
  options.max_rows = 7;
  LocalExpertWorker worker(weights_, options);
  const auto exchange = MakeExchange(ExchangeOptions({worker.address()}, GetParam()));
  ExpectRightBytes(exchange.get(), 50, 1);
  EXPECT_EQ(worker.stats().num_rows, 50);
  EXPECT_EQ(worker.stats().num_jobs, 8);
}

TEST_P(GrpcExchangeTest, LateWorkersAreWaitedFor) {
  auto first = Worker({0, 1, 2, 3});
  auto second = Worker({4, 5, 6, 7});
  const int port = second->port();
  const std::string second_address = second->address();
  second.reset();
  std::atomic<int> num_changes = 0;
  GrpcExchangeOptions options = ExchangeOptions({first->address(), second_address}, GetParam());
  options.on_change = [&num_changes] { ++num_changes; };
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().size() == 4; }));
  EXPECT_THAT(exchange->MissingExperts(), ElementsAre(4, 5, 6, 7));
  ASSERT_TRUE(Eventually([&] { return num_changes == 1; }));

  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(100));
    second = Worker({4, 5, 6, 7}, port);
  });
  ExpectRightBytes(exchange.get(), 20, 1);
  starter.join();
  EXPECT_THAT(exchange->MissingExperts(), IsEmpty());
  EXPECT_TRUE(Eventually([&] { return num_changes == 2; }));
}

TEST_P(GrpcExchangeTest, WorkersThatDieAndComeBackChangeNoByte) {
  std::unique_ptr<LocalExpertWorker> worker = Worker({4, 5, 6, 7});
  auto other = Worker({0, 1, 2, 3});
  const int port = worker->port();
  const auto exchange =
      MakeExchange(ExchangeOptions({other->address(), worker->address()}, GetParam()));
  std::atomic<bool> stop = false;
  std::thread killer([&] {
    for (int round = 0; round < 5; ++round) {
      absl::SleepFor(absl::Milliseconds(30));
      worker.reset();
      worker = Worker({4, 5, 6, 7}, port);
    }
    stop = true;
  });
  uint32_t seed = 0;
  while (!stop) ExpectRightBytes(exchange.get(), 40, ++seed);
  killer.join();
  ExpectRightBytes(exchange.get(), 40, ++seed);
}

INSTANTIATE_TEST_SUITE_P(ActivationDTypes, GrpcExchangeTest,
                         testing::Values(DType::kF32, DType::kBf16));

// A worker that describes itself and reads, but never answers: what a stopped process looks like.
// With `stray` it answers every frame with an error for a frame that nobody sent.
class SilentWorker {
 public:
  explicit SilentWorker(const std::vector<int32_t>& experts, bool stray = false)
      : service_(experts, stray) {
    ServerOptions options;
    options.announce = false;
    auto runner = ServerRunner::Start(options, {&service_});
    M1_CHECK(runner.ok());
    runner_ = *std::move(runner);
  }
  const std::string& address() const { return runner_->target(); }
  int num_frames() const { return service_.num_frames_; }

 private:
  struct Service final : public v1::ExpertExchange::Service {
    Service(const std::vector<int32_t>& experts, bool stray) : experts_(experts), stray_(stray) {}
    grpc::Status Describe(grpc::ServerContext*, const v1::DescribeExpertsRequest* request,
                          v1::DescribeExpertsResponse* response) override {
      *response->mutable_identity() = request->identity();
      response->mutable_experts()->Add(experts_.begin(), experts_.end());
      response->set_hidden_size(kShape.hidden_size);
      response->set_max_rows(100);
      return grpc::Status::OK;
    }
    grpc::Status Exchange(
        grpc::ServerContext*,
        grpc::ServerReaderWriter<v1::ExchangeFrame, v1::ExchangeFrame>* stream) override {
      v1::ExchangeFrame frame;
      while (stream->Read(&frame)) {
        ++num_frames_;
        if (!stray_) continue;
        frame.set_frame(EncodeErrorFrame(1 << 30, absl::InternalError("of no frame")));
        stream->Write(frame);
      }
      return grpc::Status::OK;
    }
    const std::vector<int32_t> experts_;
    const bool stray_;
    std::atomic<int> num_frames_ = 0;
  };

  Service service_;
  std::unique_ptr<ServerRunner> runner_;
};

class GrpcExchangeFaultTest : public testing::Test {
 protected:
  GrpcExchangeFaultTest() : weights_(kShape, DType::kF32) {}

  LocalExpertWorker::Options WorkerOptions(const std::vector<int32_t>& experts) {
    LocalExpertWorker::Options options;
    options.experts = experts;
    return options;
  }

  RandomExperts weights_;
};

TEST_F(GrpcExchangeFaultTest, PeerThatHangsIsLostAndItsReplicaTakesOver) {
  SilentWorker silent(kAll);
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  GrpcExchangeOptions options = ExchangeOptions({silent.address(), replica.address()}, DType::kF32);
  options.peer.exchange_timeout = absl::Milliseconds(300);
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] {
    const std::vector<ExpertPeer> peers = exchange->Peers();
    return peers[0].connected && peers[1].connected;
  }));
  RandomBatch batch(kShape, DType::kF32, 10);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine());
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  EXPECT_GE(silent.num_frames(), 1);
}

// It would otherwise look as if nothing were owed, and the batch would wait without end.
TEST_F(GrpcExchangeFaultTest, PeerThatAnswersWhatNobodyAskedIsLost) {
  SilentWorker stray(kAll, /*stray=*/true);
  GrpcExchangeOptions options = ExchangeOptions({stray.address()}, DType::kF32);
  options.loss_timeout = absl::Milliseconds(300);
  options.peer.min_backoff = absl::Seconds(2);
  options.peer.max_backoff = absl::Seconds(2);
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().empty(); }));
  RandomBatch batch(kShape, DType::kF32, 10);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("")));
  EXPECT_THAT(exchange->Peers()[0].last_error, HasSubstr("which is not open"));
}

// A rolling restart: each drain meets frames on their way.
TEST_F(GrpcExchangeFaultTest, DrainsUnderLoadLoseAndBreakNothing) {
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  for (uint32_t round = 0; round < 30; ++round) {
    LocalExpertWorker drained(weights_, WorkerOptions(kAll));
    const auto exchange =
        MakeExchange(ExchangeOptions({drained.address(), replica.address()}, DType::kF32));
    ASSERT_TRUE(Eventually([&] {
      const std::vector<ExpertPeer> peers = exchange->Peers();
      return peers[0].connected && peers[1].connected;
    }));
    std::thread drainer([&] {
      absl::SleepFor(absl::Microseconds(200 * round));
      drained.service().Drain();
    });
    for (uint32_t seed = 0; seed < 30; ++seed) {
      RandomBatch batch(kShape, DType::kF32, 10, seed);
      ASSERT_OK(exchange->Dispatch(batch.batch()));
      ASSERT_OK(exchange->Combine());
      ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
    }
    drainer.join();
  }
}

TEST_F(GrpcExchangeFaultTest, IdentityMismatchNamesTheField) {
  LocalExpertWorker::Options worker_options = WorkerOptions(kAll);
  worker_options.activation_dtype = "bf16";
  LocalExpertWorker worker(weights_, worker_options);
  const auto exchange = MakeExchange(ExchangeOptions({worker.address()}, DType::kF32));
  const auto error = [&] { return exchange->Peers()[0].last_error; };
  ASSERT_TRUE(Eventually([&] { return error() != "not reached yet"; }));
  EXPECT_EQ(error(), "identity differs: activation_dtype: ours \"fp32\", theirs \"bf16\"");
  EXPECT_FALSE(exchange->Peers()[0].connected);
  EXPECT_EQ(exchange->MissingExperts(), kAll);
}

TEST_F(GrpcExchangeFaultTest, MissingExpertsEndTheBatchAfterTheLossTimeout) {
  LocalExpertWorker worker(weights_, WorkerOptions({0, 1, 2}));
  GrpcExchangeOptions options = ExchangeOptions({worker.address(), "127.0.0.1:1"}, DType::kF32);
  options.loss_timeout = absl::Milliseconds(200);
  const auto exchange = MakeExchange(options);
  RandomBatch batch(kShape, DType::kF32, 2);
  batch.expert_ids = {0, 6, 5, 1};
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(),
              StatusIs(absl::StatusCode::kUnavailable,
                       testing::AllOf(HasSubstr("no worker for experts 5,6 for 200ms"),
                                      HasSubstr("127.0.0.1:1: "))));
  // The exchange goes on with what it has.
  batch.expert_ids = {0, 1, 2, 1};
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine());
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_F(GrpcExchangeFaultTest, ShutdownEndsAWait) {
  const auto exchange = MakeExchange(ExchangeOptions({"127.0.0.1:1"}, DType::kF32));
  RandomBatch batch(kShape, DType::kF32, 2);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  std::thread stopper([&] {
    absl::SleepFor(absl::Milliseconds(50));
    exchange->Shutdown();
  });
  EXPECT_THAT(exchange->Combine(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("shut down")));
  stopper.join();
}

TEST_F(GrpcExchangeFaultTest, WorkersErrorsEndTheBatchAndNothingElse) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  const auto exchange = MakeExchange(ExchangeOptions({worker.address()}, DType::kF32));
  RandomBatch batch(kShape, DType::kF32, 2);
  batch.layer = kShape.num_layers;
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer 3, the model has 3")));
  batch.layer = 1;
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine());
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_F(GrpcExchangeFaultTest, FullQueueIsTriedAgain) {
  LocalExpertWorker::Options options = WorkerOptions(kAll);
  options.max_queued_jobs = 1;
  options.max_rows = 1;
  LocalExpertWorker worker(weights_, options);
  const auto exchange = MakeExchange(ExchangeOptions({worker.address()}, DType::kF32));
  RandomBatch batch(kShape, DType::kF32, 200);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine());
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_F(GrpcExchangeFaultTest, DrainedWorkerIsLeftForItsReplica) {
  LocalExpertWorker drained(weights_, WorkerOptions(kAll));
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  const auto exchange =
      MakeExchange(ExchangeOptions({drained.address(), replica.address()}, DType::kF32));
  ASSERT_TRUE(Eventually([&] {
    const std::vector<ExpertPeer> peers = exchange->Peers();
    return peers[0].connected && peers[1].connected;
  }));
  drained.service().Drain();
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomBatch batch(kShape, DType::kF32, 10, seed);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    ASSERT_OK(exchange->Combine());
    ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  }
}

TEST_F(GrpcExchangeFaultTest, TwoClientsAtOnceGetTheirOwnRows) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 2; ++client) {
    clients.emplace_back([&, client] {
      const auto exchange = MakeExchange(ExchangeOptions({worker.address()}, DType::kF32));
      for (uint32_t round = 0; round < 50; ++round) {
        RandomBatch batch(kShape, DType::kF32, 1 + round % 7, 1000 * client + round);
        ASSERT_OK(exchange->Dispatch(batch.batch()));
        ASSERT_OK(exchange->Combine());
        ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(GrpcExchangeFaultTest, NamesAreResolvedAgainAndWorkersJoin) {
  LocalExpertWorker first(weights_, WorkerOptions({0, 1, 2, 3}));
  LocalExpertWorker second(weights_, WorkerOptions({4, 5, 6, 7}));
  std::atomic<bool> both = false;
  GrpcExchangeOptions options = ExchangeOptions({"dns:///experts:7000"}, DType::kF32);
  options.resolve_interval = absl::Milliseconds(10);
  options.resolver = [&](const std::string& name,
                         const std::string& port) -> absl::StatusOr<std::vector<std::string>> {
    if (name != "experts" || port != "7000") return absl::InternalError("not asked for");
    if (!both) return std::vector<std::string>{first.address()};
    return std::vector<std::string>{first.address(), second.address()};
  };
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().size() == 4; }));
  both = true;
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().empty(); }));
  EXPECT_EQ(exchange->Peers().size(), 2U);
}

TEST(GrpcExchangeOptionsTest, RefusesToStartWithoutAddresses) {
  EXPECT_THAT(GrpcExchange::Create({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("addresses")));
}

}  // namespace
}  // namespace m1
