#include "common/rpc/remote_exchange.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <optional>
#include <thread>
#include <tuple>

#include "absl/time/clock.h"

#include "tests/expert_worker/local_expert_worker.h"
#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<int32_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

enum class Transport { kGrpc, kShm };

std::string Name(Transport transport) { return transport == Transport::kShm ? "shm" : "grpc"; }

// How an exchange is to reach what listens there.
std::string By(Transport transport, const std::string& address) {
  return transport == Transport::kShm ? "shm:" + address : address;
}

RemoteExchangeOptions ExchangeOptions(const std::vector<std::string>& addresses, DType dtype) {
  RemoteExchangeOptions options;
  options.addresses = addresses;
  options.peer.identity = TestIdentity(dtype);
  options.peer.num_experts = kExchangeShape.num_experts;
  options.peer.hidden_size = kExchangeShape.hidden_size;
  return options;
}

std::unique_ptr<RemoteExchange> MakeExchange(const RemoteExchangeOptions& options) {
  auto exchange = RemoteExchange::Create(options);
  M1_CHECK(exchange.ok());
  return *std::move(exchange);
}

class RemoteExchangeTest : public testing::TestWithParam<std::tuple<Transport, DType>> {
 protected:
  RemoteExchangeTest() : weights_(kExchangeShape, Dtype()) {}

  static Transport Via() { return std::get<0>(GetParam()); }
  static DType Dtype() { return std::get<1>(GetParam()); }
  static std::string Reach(const LocalExpertWorker& worker) { return By(Via(), worker.address()); }

  std::unique_ptr<LocalExpertWorker> Worker(const std::vector<int32_t>& experts, int port = 0) {
    LocalExpertWorker::Options options;
    options.dtype = Dtype();
    options.experts = experts;
    options.port = port;
    return std::make_unique<LocalExpertWorker>(weights_, options);
  }

  // One batch through the exchange: the right bytes.
  void ExpectRightBytes(ExpertExchange* exchange, int64_t num_rows, uint32_t seed) {
    RandomBatch batch(kExchangeShape, Dtype(), num_rows, seed);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    ASSERT_OK(exchange->Combine(0));
    EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  }

  RandomExperts weights_;
};

TEST_P(RemoteExchangeTest, AnyNumberAndPlacementOfWorkersGivesTheSameBytes) {
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
      addresses.push_back(Reach(*workers.back()));
    }
    const auto exchange = MakeExchange(ExchangeOptions(addresses, Dtype()));
    uint32_t seed = 0;
    for (const int64_t num_rows : {1, 2, 17, 300, 0, 1}) {
      ExpectRightBytes(exchange.get(), num_rows, ++seed);
    }
    EXPECT_THAT(exchange->MissingExperts(), IsEmpty());
  }
}

TEST_P(RemoteExchangeTest, FramesAreSplitAtTheRowsAPeerTakes) {
  LocalExpertWorker::Options options;
  options.dtype = Dtype();
  options.experts = kAll;
  options.max_rows = 7;
  LocalExpertWorker worker(weights_, options);
  const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, Dtype()));
  ExpectRightBytes(exchange.get(), 50, 1);
  EXPECT_EQ(worker.stats().num_rows, 50);
  EXPECT_EQ(worker.stats().num_jobs, 8);
}

TEST_P(RemoteExchangeTest, LateWorkersAreWaitedFor) {
  auto first = Worker({0, 1, 2, 3});
  auto second = Worker({4, 5, 6, 7});
  const int port = second->port();
  const std::string second_address = Reach(*second);
  second.reset();
  std::atomic<int> num_changes = 0;
  RemoteExchangeOptions options = ExchangeOptions({Reach(*first), second_address}, Dtype());
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

TEST_P(RemoteExchangeTest, WorkersThatDieAndComeBackChangeNoByte) {
  std::unique_ptr<LocalExpertWorker> worker = Worker({4, 5, 6, 7});
  auto other = Worker({0, 1, 2, 3});
  const int port = worker->port();
  const auto exchange = MakeExchange(ExchangeOptions({Reach(*other), Reach(*worker)}, Dtype()));
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

INSTANTIATE_TEST_SUITE_P(All, RemoteExchangeTest,
                         testing::Combine(testing::Values(Transport::kGrpc, Transport::kShm),
                                          testing::Values(DType::kF32, DType::kBf16)),
                         [](const auto& test) {
                           return Name(std::get<0>(test.param)) + "_" +
                                  std::string(DTypeName(std::get<1>(test.param)));
                         });

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
      response->set_hidden_size(kExchangeShape.hidden_size);
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

class RemoteExchangeFaultTest : public testing::TestWithParam<Transport> {
 protected:
  RemoteExchangeFaultTest() : weights_(kExchangeShape, DType::kF32) {}

  LocalExpertWorker::Options WorkerOptions(const std::vector<int32_t>& experts) {
    LocalExpertWorker::Options options;
    options.experts = experts;
    return options;
  }

  static std::string Reach(const LocalExpertWorker& worker) {
    return By(GetParam(), worker.address());
  }

  RandomExperts weights_;
};

INSTANTIATE_TEST_SUITE_P(Transports, RemoteExchangeFaultTest,
                         testing::Values(Transport::kGrpc, Transport::kShm),
                         [](const auto& test) { return Name(test.param); });

TEST_P(RemoteExchangeFaultTest, PeerThatHangsIsLostAndItsReplicaTakesOver) {
  SilentWorker silent(kAll);
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  RemoteExchangeOptions options = ExchangeOptions({silent.address(), Reach(replica)}, DType::kF32);
  options.peer.exchange_timeout = absl::Milliseconds(300);
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] {
    const std::vector<ExpertPeer> peers = exchange->Peers();
    return peers[0].connected && peers[1].connected;
  }));
  RandomBatch batch(kExchangeShape, DType::kF32, 10);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine(0));
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  EXPECT_GE(silent.num_frames(), 1);
}

// Both lanes in flight over two workers, one of which dies and comes back again and again.
TEST_P(RemoteExchangeFaultTest, LanesInFlightSurviveLosses) {
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  auto mortal = std::make_unique<LocalExpertWorker>(weights_, WorkerOptions(kAll));
  const auto exchange =
      MakeExchange(ExchangeOptions({Reach(*mortal), Reach(replica)}, DType::kF32));
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().empty(); }));
  std::array<std::optional<RandomBatch>, kExchangeLanes> batches;
  for (uint32_t i = 0; i < 200; ++i) {
    const auto lane = static_cast<int32_t>(i % kExchangeLanes);
    std::optional<RandomBatch>& batch = batches[i % kExchangeLanes];
    if (batch) {
      ASSERT_OK(exchange->Combine(lane));
      ASSERT_EQ(batch->out_bytes(), ComputeAlone(weights_, *batch));
    }
    batch.emplace(kExchangeShape, DType::kF32, 1 + i % 40, /*seed=*/i);
    ASSERT_OK(exchange->Dispatch(batch->batch(lane)));
    if (i == 100) mortal.reset();
  }
  for (int32_t lane = 0; lane < kExchangeLanes; ++lane) {
    ASSERT_OK(exchange->Combine(lane));
    EXPECT_EQ(batches[static_cast<size_t>(lane)]->out_bytes(),
              ComputeAlone(weights_, *batches[static_cast<size_t>(lane)]));
  }
}

// An error of one lane is not the other's.
TEST_P(RemoteExchangeFaultTest, ALanesErrorIsItsOwn) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, DType::kF32));
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().empty(); }));
  RandomBatch good(kExchangeShape, DType::kF32, 10, /*seed=*/1);
  RandomBatch bad(kExchangeShape, DType::kF32, 10, /*seed=*/2);
  bad.layer = 1000;  // the worker refuses it
  ASSERT_OK(exchange->Dispatch(bad.batch(0)));
  ASSERT_OK(exchange->Dispatch(good.batch(1)));
  EXPECT_THAT(exchange->Combine(0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer")));
  ASSERT_OK(exchange->Combine(1));
  EXPECT_EQ(good.out_bytes(), ComputeAlone(weights_, good));
}

// It would otherwise look as if nothing were owed, and the batch would wait without end.
TEST_P(RemoteExchangeFaultTest, PeerThatAnswersWhatNobodyAskedIsLost) {
  SilentWorker stray(kAll, /*stray=*/true);
  RemoteExchangeOptions options = ExchangeOptions({stray.address()}, DType::kF32);
  options.loss_timeout = absl::Milliseconds(300);
  options.peer.min_backoff = absl::Seconds(2);
  options.peer.max_backoff = absl::Seconds(2);
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] { return exchange->MissingExperts().empty(); }));
  RandomBatch batch(kExchangeShape, DType::kF32, 10);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(0), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("")));
  EXPECT_THAT(exchange->Peers()[0].last_error, HasSubstr("which is not open"));
}

// A rolling restart: each drain meets frames on their way.
TEST_P(RemoteExchangeFaultTest, DrainsUnderLoadLoseAndBreakNothing) {
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  for (uint32_t round = 0; round < 30; ++round) {
    LocalExpertWorker drained(weights_, WorkerOptions(kAll));
    const auto exchange =
        MakeExchange(ExchangeOptions({Reach(drained), Reach(replica)}, DType::kF32));
    ASSERT_TRUE(Eventually([&] {
      const std::vector<ExpertPeer> peers = exchange->Peers();
      return peers[0].connected && peers[1].connected;
    }));
    std::thread drainer([&] {
      absl::SleepFor(absl::Microseconds(200 * round));
      drained.Drain();
    });
    for (uint32_t seed = 0; seed < 30; ++seed) {
      RandomBatch batch(kExchangeShape, DType::kF32, 10, seed);
      ASSERT_OK(exchange->Dispatch(batch.batch()));
      ASSERT_OK(exchange->Combine(0));
      ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
    }
    drainer.join();
  }
}

TEST_P(RemoteExchangeFaultTest, IdentityMismatchNamesTheField) {
  LocalExpertWorker::Options worker_options = WorkerOptions(kAll);
  worker_options.activation_dtype = "bf16";
  LocalExpertWorker worker(weights_, worker_options);
  const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, DType::kF32));
  const auto error = [&] { return exchange->Peers()[0].last_error; };
  ASSERT_TRUE(Eventually([&] { return error() != "not reached yet"; }));
  EXPECT_EQ(error(), "identity differs: activation_dtype: ours \"fp32\", theirs \"bf16\"");
  EXPECT_FALSE(exchange->Peers()[0].connected);
  EXPECT_EQ(exchange->MissingExperts(), kAll);
}

TEST_P(RemoteExchangeFaultTest, MissingExpertsEndTheBatchAfterTheLossTimeout) {
  LocalExpertWorker worker(weights_, WorkerOptions({0, 1, 2}));
  RemoteExchangeOptions options = ExchangeOptions({Reach(worker), "127.0.0.1:1"}, DType::kF32);
  options.loss_timeout = absl::Milliseconds(200);
  const auto exchange = MakeExchange(options);
  RandomBatch batch(kExchangeShape, DType::kF32, 2);
  batch.expert_ids = {0, 6, 5, 1};
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(0),
              StatusIs(absl::StatusCode::kUnavailable,
                       testing::AllOf(HasSubstr("no worker for experts 5,6 for 200ms"),
                                      HasSubstr("127.0.0.1:1: "))));
  // The exchange goes on with what it has.
  batch.expert_ids = {0, 1, 2, 1};
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine(0));
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_P(RemoteExchangeFaultTest, ShutdownEndsAWait) {
  const auto exchange = MakeExchange(ExchangeOptions({"127.0.0.1:1"}, DType::kF32));
  RandomBatch batch(kExchangeShape, DType::kF32, 2);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  std::thread stopper([&] {
    absl::SleepFor(absl::Milliseconds(50));
    exchange->Shutdown();
  });
  EXPECT_THAT(exchange->Combine(0), StatusIs(absl::StatusCode::kCancelled, HasSubstr("shut down")));
  stopper.join();
}

TEST_P(RemoteExchangeFaultTest, WorkersErrorsEndTheBatchAndNothingElse) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, DType::kF32));
  RandomBatch batch(kExchangeShape, DType::kF32, 2);
  batch.layer = kExchangeShape.num_layers;
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  EXPECT_THAT(exchange->Combine(0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer 3, the model has 3")));
  batch.layer = 1;
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine(0));
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_P(RemoteExchangeFaultTest, FullQueueIsTriedAgain) {
  LocalExpertWorker::Options options = WorkerOptions(kAll);
  options.max_queued_jobs = 1;
  options.max_rows = 1;
  LocalExpertWorker worker(weights_, options);
  const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, DType::kF32));
  RandomBatch batch(kExchangeShape, DType::kF32, 200);
  ASSERT_OK(exchange->Dispatch(batch.batch()));
  ASSERT_OK(exchange->Combine(0));
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

TEST_P(RemoteExchangeFaultTest, DrainedWorkerIsLeftForItsReplica) {
  LocalExpertWorker drained(weights_, WorkerOptions(kAll));
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  const auto exchange =
      MakeExchange(ExchangeOptions({Reach(drained), Reach(replica)}, DType::kF32));
  ASSERT_TRUE(Eventually([&] {
    const std::vector<ExpertPeer> peers = exchange->Peers();
    return peers[0].connected && peers[1].connected;
  }));
  drained.Drain();
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomBatch batch(kExchangeShape, DType::kF32, 10, seed);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    ASSERT_OK(exchange->Combine(0));
    ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  }
}

TEST_P(RemoteExchangeFaultTest, TwoClientsAtOnceGetTheirOwnRows) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 2; ++client) {
    clients.emplace_back([&, client] {
      const auto exchange = MakeExchange(ExchangeOptions({Reach(worker)}, DType::kF32));
      for (uint32_t round = 0; round < 50; ++round) {
        RandomBatch batch(kExchangeShape, DType::kF32, 1 + round % 7, 1000 * client + round);
        ASSERT_OK(exchange->Dispatch(batch.batch()));
        ASSERT_OK(exchange->Combine(0));
        ASSERT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_P(RemoteExchangeFaultTest, NamesAreResolvedAgainAndWorkersJoin) {
  LocalExpertWorker first(weights_, WorkerOptions({0, 1, 2, 3}));
  LocalExpertWorker second(weights_, WorkerOptions({4, 5, 6, 7}));
  std::atomic<bool> both = false;
  RemoteExchangeOptions options = ExchangeOptions({"dns:///experts:7000"}, DType::kF32);
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

class SharedMemoryTest : public RemoteExchangeFaultTest {
 protected:
  static RemoteExchangeOptions Options(const std::vector<std::string>& addresses) {
    return ExchangeOptions(addresses, DType::kF32);
  }
  void ExpectRightBytes(ExpertExchange* exchange, int64_t num_rows) {
    RandomBatch batch(kExchangeShape, DType::kF32, num_rows);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    ASSERT_OK(exchange->Combine(0));
    EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
  }
};

INSTANTIATE_TEST_SUITE_P(Shm, SharedMemoryTest, testing::Values(Transport::kShm),
                         [](const auto& test) { return Name(test.param); });

TEST_P(SharedMemoryTest, WorkerWithoutItIsReachedByGrpc) {
  LocalExpertWorker::Options worker_options = WorkerOptions(kAll);
  worker_options.shared_memory = false;
  LocalExpertWorker worker(weights_, worker_options);
  const auto exchange = MakeExchange(Options({Reach(worker)}));
  EXPECT_EQ(exchange->Peers()[0].address, "shm:" + worker.address());
  ExpectRightBytes(exchange.get(), 20);
  EXPECT_EQ(exchange->Peers()[0].address, worker.address());
}

TEST_P(SharedMemoryTest, PlainAndSharedPeersMix) {
  LocalExpertWorker first(weights_, WorkerOptions({0, 1, 2, 3}));
  LocalExpertWorker second(weights_, WorkerOptions({4, 5, 6, 7}));
  const auto exchange = MakeExchange(Options({first.address(), Reach(second)}));
  for (int round = 0; round < 50; ++round) ExpectRightBytes(exchange.get(), 20);
  EXPECT_EQ(exchange->Peers()[0].address, first.address());
  EXPECT_EQ(exchange->Peers()[1].address, "shm:" + second.address());
}

TEST_P(SharedMemoryTest, MoreThanTheSlotsHoldIsSplitAndQueued) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  RemoteExchangeOptions options = Options({Reach(worker)});
  options.peer.slots = {.num_slots = 2, .slot_bytes = 8192};
  const auto exchange = MakeExchange(options);
  ExpectRightBytes(exchange.get(), 500);
  // 21 rows of 192 bytes with two answers each.
  EXPECT_EQ(worker.stats().num_jobs, 24);
  ExpectRightBytes(exchange.get(), 500);
}

TEST_P(SharedMemoryTest, RowsThatFitNoSlotGoByGrpc) {
  LocalExpertWorker worker(weights_, WorkerOptions(kAll));
  RemoteExchangeOptions options = Options({Reach(worker)});
  options.peer.num_experts = 100;
  options.peer.slots = {.num_slots = 2, .slot_bytes = 8192};
  const auto exchange = MakeExchange(options);
  ExpectRightBytes(exchange.get(), 20);
  EXPECT_EQ(exchange->Peers()[0].address, worker.address());
}

TEST_P(SharedMemoryTest, PeerThatHangsIsLostAndItsReplicaTakesOver) {
  LocalExpertWorker stopped(weights_, WorkerOptions(kAll));
  LocalExpertWorker replica(weights_, WorkerOptions(kAll));
  RemoteExchangeOptions options = Options({Reach(stopped), Reach(replica)});
  options.peer.exchange_timeout = absl::Milliseconds(300);
  const auto exchange = MakeExchange(options);
  ASSERT_TRUE(Eventually([&] {
    const std::vector<ExpertPeer> peers = exchange->Peers();
    return peers[0].connected && peers[1].connected;
  }));
  stopped.StopEngine();
  ExpectRightBytes(exchange.get(), 10);
  EXPECT_EQ(stopped.stats().num_jobs, 0);
}

// Describes itself as any worker and accepts memory, then fills all of it but the dispatches' words
// with noise, again and again.
class NoisyWorker {
 public:
  explicit NoisyWorker(const RandomExperts& weights, const LocalExperts& experts)
      : source_(ShmSource::Create({.shape = weights.shape()}, &experts.executor)) {
    M1_CHECK(source_.ok());
    service_.offer = (*source_)->offer();
    const std::string name = "m1-noisy-" + std::to_string(getpid());
    service_.offer.socket = name;
    auto listener = ListenAbstract(name);
    M1_CHECK(listener.ok());
    listener_ = *std::move(listener);
    ServerOptions options;
    options.announce = false;
    auto runner = ServerRunner::Start(options, {&service_});
    M1_CHECK(runner.ok());
    runner_ = *std::move(runner);
    thread_ = std::thread([this] { Loop(); });
  }
  ~NoisyWorker() {
    stop_ = true;
    thread_.join();
  }
  std::string address() const { return "shm:" + runner_->target(); }
  int num_clients() const { return num_clients_; }

 private:
  struct Service final : public v1::ExpertExchange::Service {
    grpc::Status Describe(grpc::ServerContext*, const v1::DescribeExpertsRequest* request,
                          v1::DescribeExpertsResponse* response) override {
      *response->mutable_identity() = request->identity();
      response->mutable_experts()->Add(kAll.begin(), kAll.end());
      response->set_hidden_size(kExchangeShape.hidden_size);
      response->set_max_rows(100);
      response->mutable_shared_memory()->set_socket(offer.socket);
      response->mutable_shared_memory()->set_token(offer.token);
      response->mutable_shared_memory()->set_boot_id(offer.boot_id);
      return grpc::Status::OK;
    }
    ShmOffer offer;
  };

  void Loop() {
    std::mt19937 random(1);
    while (!stop_) {
      UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        absl::SleepFor(absl::Milliseconds(1));
        continue;
      }
      absl::StatusOr<std::optional<ShmHello>> hello = std::nullopt;
      while (!stop_ && hello.ok() && !hello->has_value()) {
        hello = ReceiveHello(socket.get(), service_.offer.token);
      }
      if (!hello.ok() || !hello->has_value()) continue;
      auto bell = SharedMemory::Create(kDoorbellBytes);
      M1_CHECK(bell.ok());
      if (!SendWelcome(socket.get(), *bell).ok()) continue;  // the caller did not wait for it
      ++num_clients_;
      while (!stop_ && !HungUp(socket.get())) MakeNoise(**hello, random);
    }
  }

  static void MakeNoise(const ShmHello& hello, std::mt19937& random) {
    auto* words = reinterpret_cast<std::atomic<uint32_t>*>(hello.memory.data());
    for (int32_t slot = 0; slot < hello.layout.num_slots; ++slot) {
      std::byte* answer =
          hello.memory.data() + 4096 + (hello.layout.num_slots + slot) * hello.layout.slot_bytes;
      FrameHeader header;
      header.kind = random() % 2 == 0 ? FrameKind::kCombine : FrameKind::kError;
      header.id = random() % 50;
      header.layer = static_cast<int32_t>(random() % 3);
      header.hidden = header.kind == FrameKind::kCombine ? kExchangeShape.hidden_size : 0;
      header.num_pairs =
          header.kind == FrameKind::kCombine ? static_cast<int32_t>(random() % 40) : 0;
      header.code =
          header.kind == FrameKind::kError ? absl::StatusCode::kUnavailable : absl::StatusCode::kOk;
      WriteFrameHeader(header, answer);
      for (auto flips = random() % 3; flips > 0; --flips) {
        answer[random() % 64] = static_cast<std::byte>(random());
      }
      // A turn that fits, or any; the size that fits, or any.
      const auto index = 2 * static_cast<size_t>(slot);
      words[16 + index + 1] = random() % 4 == 0 ? static_cast<uint32_t>(random())
                                                : static_cast<uint32_t>(header.frame_bytes());
      words[16 + index] = random() % 4 == 0 ? static_cast<uint32_t>(random()) : words[index].load();
    }
    Doorbell(reinterpret_cast<DoorbellWords*>(hello.doorbell.data())).Ring();
  }

  absl::StatusOr<std::unique_ptr<ShmSource>> source_;  // for its token only
  Service service_;
  UniqueFd listener_;
  std::unique_ptr<ServerRunner> runner_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> num_clients_ = 0;
  std::thread thread_;
};

// It may give wrong numbers, as any worker may; it may not crash us, read what is not there or
// hang.
TEST_P(SharedMemoryTest, NoiseFromAWorkerBreaksNothing) {
  const LocalExperts experts(weights_, kAll, DType::kF32);
  NoisyWorker noisy(weights_, experts);
  RemoteExchangeOptions options = Options({noisy.address()});
  options.peer.min_backoff = absl::Milliseconds(1);
  options.peer.max_backoff = absl::Milliseconds(2);
  options.peer.exchange_timeout = absl::Milliseconds(200);
  options.loss_timeout = absl::Milliseconds(500);
  const auto exchange = MakeExchange(options);
  for (uint32_t round = 0; round < 40; ++round) {
    RandomBatch batch(kExchangeShape, DType::kF32, 10, round);
    ASSERT_OK(exchange->Dispatch(batch.batch()));
    exchange->Combine(0).IgnoreError();
  }
  EXPECT_GT(noisy.num_clients(), 2);
}

TEST(RemoteExchangeOptionsTest, RefusesToStartWithoutAddresses) {
  EXPECT_THAT(RemoteExchange::Create({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("addresses")));
}

}  // namespace
}  // namespace m1
