// Rows of a (simulated) GPU through RemoteExchange and device links over the fake NCCL, to expert
// workers of the same process.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"

#include "common/kernels/cuda_backend.h"
#include "common/nccl/nccl_transport.h"
#include "common/rpc/remote_exchange.h"
#include "common/worker/device_weights.h"
#include "common/worker/staged_exchange.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/expert_worker/served_engine.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using nccl::NumFakeCommunicators;
using nccl::NumFakeTransfers;
using nccl::SetFakeNcclFaults;

constexpr DType kAct = DType::kBf16;
constexpr int64_t kSlotRows = 64;
const std::vector<int32_t> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

WorkerIdentity GpuIdentity() {
  return {"test", "bf16", "bf16", "cuda", kNumericsRevision, kProtocolRevision};
}

// An expert worker whose experts are on the GPU.
class GpuWorker {
 public:
  GpuWorker(const RandomExperts& weights, const std::vector<int32_t>& experts, int port = 0,
            bool has_links = true)
      : device_(gpu_.get()),
        store_(ExpertStore::Create(weights.shape(), experts,
                                   [&](int32_t layer, int32_t expert) {
                                     return device_.Add(weights.weights(layer, expert));
                                   })
                   .value()),
        ffn_(&store_, gpu_.get(), kAct),
        executor_(gpu_.get(), &ffn_),
        transport_(has_links ? CreateNcclTransport(gpu_.get(), StreamOf(*gpu_)) : nullptr),
        engine_(&executor_, {}),
        service_(OptionsOf(weights, transport_.get()), &executor_, &engine_),
        served_(&engine_, &service_, port) {}

  int port() const { return served_.port(); }
  const std::string& address() const { return served_.address(); }
  EngineStats stats() const { return engine_.stats(); }
  void Drain() { service_.Drain(); }

 private:
  static ExchangeServiceOptions OptionsOf(const RandomExperts& weights,
                                          DeviceTransport* transport) {
    ExchangeServiceOptions options;
    options.identity = GpuIdentity();
    options.limits = {.shape = weights.shape()};
    options.device_transport = transport;
    options.device_slots = {.num_slots = 3,
                            .slot_bytes = kSlotRows * weights.shape().hidden_size * 2};
    options.device_timeout = absl::Seconds(5);
    return options;
  }

  const std::unique_ptr<KernelBackend> gpu_ = CreateCudaBackend().value();
  DeviceWeights device_;
  ExpertStore store_;
  ExpertFfn ffn_;
  StagedExecutor executor_;
  const std::unique_ptr<DeviceTransport> transport_;
  Engine engine_;
  ExchangeService service_;
  ServedEngine served_;
};

class DeviceExchangeTest : public testing::Test {
 protected:
  DeviceExchangeTest() : weights_(kExchangeShape, kAct) {}
  ~DeviceExchangeTest() override {
    SetFakeNcclFaults({});
    staged_.reset();
    exchange_.reset();
  }

  std::unique_ptr<GpuWorker> Worker(const std::vector<int32_t>& experts, int port = 0) {
    return std::make_unique<GpuWorker>(weights_, experts, port);
  }
  void Connect(const std::vector<std::string>& addresses,
               absl::Duration exchange_timeout = absl::Seconds(60),
               absl::Duration device_timeout = absl::Seconds(20)) {
    RemoteExchangeOptions options;
    options.addresses = addresses;
    options.peer.identity = GpuIdentity();
    options.peer.num_experts = kExchangeShape.num_experts;
    options.peer.hidden_size = kExchangeShape.hidden_size;
    options.peer.exchange_timeout = exchange_timeout;
    options.peer.device_transport = transport_.get();
    options.peer.device_timeout = device_timeout;
    exchange_ = RemoteExchange::Create(options).value();
    staged_ = std::make_unique<StagedExchange>(gpu_.get(), exchange_.get());
  }
  // Of peers whose rows go from device to device.
  int NumLinks() const {
    int count = 0;
    for (const ExpertPeer& peer : exchange_->Peers()) {
      count += peer.connected && absl::StartsWith(peer.address, "nccl:") ? 1 : 0;
    }
    return count;
  }
  void ConnectLinks(const std::vector<std::string>& addresses, int num_links,
                    absl::Duration exchange_timeout = absl::Seconds(60)) {
    Connect(addresses, exchange_timeout);
    ASSERT_TRUE(Eventually([&] { return NumLinks() == num_links; }));
    ASSERT_TRUE(Eventually([&] { return exchange_->MissingExperts().empty(); }));
  }

  // A batch in the device's memory.
  struct GpuBatch {
    RandomBatch host;
    Tensor rows;
    Tensor out;
    DispatchBatch batch;
  };
  GpuBatch MakeBatch(int64_t num_rows, uint32_t seed, int32_t lane = 0) {
    GpuBatch made = {RandomBatch(kExchangeShape, kAct, num_rows, seed), {}, {}, {}};
    made.rows = gpu_->NewTensor(kAct, made.host.rows.shape());
    made.out = gpu_->NewTensor(kAct, made.host.out.shape());
    EXPECT_OK(gpu_->Upload(made.host.rows.view(), made.rows.view()));
    made.batch = made.host.batch(lane);
    made.batch.rows = made.rows.view();
    made.batch.out = made.out.view();
    return made;
  }
  std::vector<std::byte> OutBytes(GpuBatch& batch) {
    EXPECT_OK(gpu_->Download(batch.out.view(), batch.host.out.view()));
    return batch.host.out_bytes();
  }
  // What the experts give for the batch on this device, without an exchange.
  std::vector<std::byte> Wanted(GpuBatch& batch) {
    if (alone_ == nullptr) alone_ = std::make_unique<Alone>(weights_);
    Tensor out = gpu_->NewTensor(kAct, batch.host.out.shape());
    const std::vector<RowExpert> pairs = PairsOf(batch.host);
    const Shape shape = {static_cast<int64_t>(pairs.size()), kExchangeShape.hidden_size};
    const ExpertJob job = {batch.host.layer, batch.rows.view(), pairs, out.view().Reshape(shape)};
    EXPECT_OK(alone_->ffn.Execute({&job, 1}));
    Tensor host(kAct, batch.host.out.shape());
    EXPECT_OK(gpu_->Download(out.view(), host.view()));
    const auto* begin = static_cast<const std::byte*>(host.view().data());
    return {begin, begin + host.view().num_bytes()};
  }
  void ExpectRightBytes(int64_t num_rows, uint32_t seed) {
    GpuBatch batch = MakeBatch(num_rows, seed);
    ASSERT_OK(staged_->Dispatch(batch.batch));
    ASSERT_OK(staged_->Combine(0));
    EXPECT_EQ(OutBytes(batch), Wanted(batch));
  }

  struct Alone {
    explicit Alone(const RandomExperts& weights)
        : device(gpu.get()),
          store(ExpertStore::Create(weights.shape(), kAll,
                                    [&](int32_t layer, int32_t expert) {
                                      return device.Add(weights.weights(layer, expert));
                                    })
                    .value()),
          ffn(&store, gpu.get(), kAct) {}
    const std::unique_ptr<KernelBackend> gpu = CreateCudaBackend().value();
    DeviceWeights device;
    ExpertStore store;
    ExpertFfn ffn;
  };

  const RandomExperts weights_;
  const std::unique_ptr<KernelBackend> gpu_ = CreateCudaBackend().value();
  const std::unique_ptr<DeviceTransport> transport_ =
      CreateNcclTransport(gpu_.get(), StreamOf(*gpu_));
  std::unique_ptr<Alone> alone_;
  std::unique_ptr<RemoteExchange> exchange_;
  std::unique_ptr<StagedExchange> staged_;
};

TEST_F(DeviceExchangeTest, RowsGoFromDeviceToDevice) {
  const auto first = Worker({0, 1, 2, 3});
  const auto second = Worker({4, 5, 6, 7});
  ConnectLinks({"nccl:" + first->address(), "nccl:" + second->address()}, 2);
  const int64_t before = NumFakeTransfers();
  uint32_t seed = 0;
  for (const int64_t num_rows : {1, 2, 17, 31, 0, 1}) ExpectRightBytes(num_rows, ++seed);
  // There and back with both workers, except where a row needs only one.
  EXPECT_GE(NumFakeTransfers() - before, 2 * (1 + 1 + 2 + 2 + 1));
}

TEST_F(DeviceExchangeTest, PeersByGrpcShareABatch) {
  const auto first = Worker({0, 1, 2, 3});
  const auto second = Worker({4, 5, 6, 7});
  ConnectLinks({first->address(), "nccl:" + second->address()}, 1);
  const int64_t before = NumFakeTransfers();
  for (uint32_t seed = 1; seed < 5; ++seed) ExpectRightBytes(20, seed);
  EXPECT_GE(NumFakeTransfers() - before, 2 * 4);
}

TEST_F(DeviceExchangeTest, WhatFindsNoSlotGoesInItsFrame) {
  const auto worker = Worker(kAll);
  ConnectLinks({"nccl:" + worker->address()}, 1);
  // Frames of 32 rows, three slots.
  const int64_t before = NumFakeTransfers();
  ExpectRightBytes(300, 1);
  EXPECT_GE(worker->stats().num_jobs, 10);
  EXPECT_GE(NumFakeTransfers() - before, 6);
  EXPECT_LT(NumFakeTransfers() - before, 20);
}

TEST_F(DeviceExchangeTest, BothLanesAreInFlight) {
  const auto worker = Worker(kAll);
  ConnectLinks({"nccl:" + worker->address()}, 1);
  std::deque<GpuBatch> batches;
  for (uint32_t i = 0; i < 20; ++i) {
    const auto lane = static_cast<int32_t>(i % kExchangeLanes);
    if (i >= kExchangeLanes) {
      ASSERT_OK(staged_->Combine(lane));
      EXPECT_EQ(OutBytes(batches.front()), Wanted(batches.front()));
      batches.pop_front();
    }
    batches.push_back(MakeBatch(1 + i % 7, i, lane));
    ASSERT_OK(staged_->Dispatch(batches.back().batch));
  }
  for (uint32_t i = 20; i < 22; ++i) {
    ASSERT_OK(staged_->Combine(static_cast<int32_t>(i % kExchangeLanes)));
    EXPECT_EQ(OutBytes(batches.front()), Wanted(batches.front()));
    batches.pop_front();
  }
}

TEST_F(DeviceExchangeTest, WorkersThatDieAndComeBackChangeNoByte) {
  auto mortal = Worker({4, 5, 6, 7});
  const auto other = Worker({0, 1, 2, 3});
  const int port = mortal->port();
  ConnectLinks({"nccl:" + mortal->address(), "nccl:" + other->address()}, 2);
  std::atomic<bool> stop = false;
  std::thread killer([&] {
    for (int round = 0; round < 4; ++round) {
      absl::SleepFor(absl::Milliseconds(40));
      mortal.reset();
      mortal = Worker({4, 5, 6, 7}, port);
    }
    stop = true;
  });
  uint32_t seed = 0;
  while (!stop) ExpectRightBytes(10, ++seed);
  killer.join();
  ExpectRightBytes(10, ++seed);
  // The other one was not touched, and the dead one's links came back.
  ASSERT_TRUE(Eventually([&] { return NumLinks() == 2; }));
  const int64_t before = NumFakeTransfers();
  ExpectRightBytes(10, ++seed);
  EXPECT_GT(NumFakeTransfers(), before);
  // What died left no communicator: four ends, a pair each.
  EXPECT_TRUE(Eventually([] { return NumFakeCommunicators() == 8; }));
}

TEST_F(DeviceExchangeTest, ATransferThatNeverEndsLosesThePeerAndItsRowsGoAgain) {
  const auto worker = Worker(kAll);
  ConnectLinks({"nccl:" + worker->address()}, 1, absl::Milliseconds(300));
  SetFakeNcclFaults({.good_transfers = 1});
  ExpectRightBytes(10, 1);  // by gRPC, in the end
  EXPECT_EQ(NumLinks(), 0);
  EXPECT_TRUE(Eventually([] { return NumFakeCommunicators() <= 4; }));
}

TEST_F(DeviceExchangeTest, AnErrorOfNcclLosesThePeerAndItsRowsGoAgain) {
  const auto worker = Worker(kAll);
  ConnectLinks({"nccl:" + worker->address()}, 1);
  SetFakeNcclFaults({.good_transfers = 0, .error = true});
  ExpectRightBytes(10, 1);
  SetFakeNcclFaults({});
  ExpectRightBytes(10, 2);
}

TEST_F(DeviceExchangeTest, WithoutALinkThereIsGrpc) {
  const auto worker = Worker(kAll);
  SetFakeNcclFaults({.never_connects = true});
  Connect({"nccl:" + worker->address()}, absl::Seconds(60), absl::Milliseconds(50));
  ExpectRightBytes(10, 1);
  ASSERT_TRUE(
      Eventually([] { return NumFakeCommunicators() == 2; }));  // the worker's: it waits longer
  ExpectRightBytes(10, 2);
  EXPECT_EQ(NumLinks(), 0);
  EXPECT_EQ(exchange_->Peers()[0].address, worker->address());
}

TEST_F(DeviceExchangeTest, AWorkerThatOffersNoneIsReachedByGrpc) {
  GpuWorker worker(weights_, kAll, 0, /*has_links=*/false);
  Connect({"nccl:" + worker.address()});
  ExpectRightBytes(10, 1);
  EXPECT_EQ(exchange_->Peers()[0].address, worker.address());
}

TEST_F(DeviceExchangeTest, IdsThatCannotBeMadeLeaveGrpc) {
  const auto worker = Worker(kAll);
  SetFakeNcclFaults({.id_fails = true});
  Connect({"nccl:" + worker->address()});
  ExpectRightBytes(10, 1);
  EXPECT_EQ(NumLinks(), 0);
}

TEST_F(DeviceExchangeTest, ADrainingWorkerAnswersWhatItTook) {
  const auto worker = Worker(kAll);
  const auto replica = Worker(kAll);
  ConnectLinks({"nccl:" + worker->address(), "nccl:" + replica->address()}, 2);
  GpuBatch batch = MakeBatch(20, 1);
  ASSERT_OK(staged_->Dispatch(batch.batch));
  worker->Drain();
  ASSERT_OK(staged_->Combine(0));
  EXPECT_EQ(OutBytes(batch), Wanted(batch));
  ExpectRightBytes(20, 2);
}

}  // namespace
}  // namespace m1
