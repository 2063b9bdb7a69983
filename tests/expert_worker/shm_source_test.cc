// Raw clients of an expert worker's shared memory: what they may put there, and how they end.
#include "expert_worker/shm_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "absl/time/clock.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda_backend.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/support/eventually.h"
#include "tests/support/property.h"
#include "tests/support/simulated_gpu.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr ExpertModelShape kShape = {
    .num_layers = 2, .num_experts = 4, .hidden_size = 16, .intermediate_size = 8};
constexpr SlotLayout kLayout = {.num_slots = 4, .slot_bytes = 8192};

struct RawClient {
  static std::unique_ptr<RawClient> Connect(const ShmOffer& offer) {
    auto client = std::make_unique<RawClient>();
    auto socket = ConnectAbstract(offer.socket);
    auto memory = SharedMemory::Create(kLayout.num_bytes());
    auto bell = SharedMemory::Create(kDoorbellBytes);
    if (!socket.ok() || !memory.ok() || !bell.ok()) return nullptr;
    client->socket = *std::move(socket);
    client->memory = *std::move(memory);
    client->bell_memory = *std::move(bell);
    client->slots.emplace(client->memory.data(), kLayout);
    if (!SendHello(client->socket.get(), offer.token, kLayout, client->memory, client->bell_memory)
             .ok()) {
      return nullptr;
    }
    const bool answered = Eventually([&] {
      auto welcome = ReceiveWelcome(client->socket.get());
      if (!welcome.ok()) {
        client->refusal = welcome.status();
      } else if (welcome->has_value()) {
        client->worker_bell = **std::move(welcome);
      } else {
        return false;
      }
      return true;
    });
    return answered ? std::move(client) : nullptr;
  }

  void Send(absl::string_view frame) {
    const int32_t slot = slots->Free();
    M1_CHECK(slot >= 0);
    std::memcpy(slots->dispatch(slot), frame.data(), frame.size());
    slots->Send(slot, static_cast<int64_t>(frame.size()));
    Doorbell(reinterpret_cast<DoorbellWords*>(worker_bell.data())).Ring();
  }
  // The error that answers the frame; OK when a combine frame does.
  absl::Status Ask(absl::string_view frame, FrameHeader* header) {
    Send(frame);
    std::optional<SlotFrame> answer;
    if (!Eventually([&] { return (answer = slots->NextAnswer()).has_value(); })) {
      return absl::DeadlineExceededError("no answer");
    }
    ByteChunks bytes{ByteChunks::Chunk(answer->bytes)};
    absl::Status status = ReadFrameHeader(&bytes, header);
    if (status.ok() && header->kind == FrameKind::kError) status = ReadErrorBody(&bytes, *header);
    slots->Release(answer->slot);
    return status;
  }

  UniqueFd socket;
  SharedMemory memory;
  SharedMemory bell_memory;
  SharedMemory worker_bell;
  std::optional<DispatchSlots> slots;
  absl::Status refusal;
};

std::string GoodFrame(int32_t num_rows = 3, int32_t num_pairs = 3) {
  Tensor rows(DType::kF32, {num_rows, kShape.hidden_size});
  std::memset(rows.view().data(), 0, static_cast<size_t>(rows.view().num_bytes()));
  std::vector<int32_t> row_indices;
  for (int32_t i = 0; i < num_rows; ++i) row_indices.push_back(i);
  std::vector<RowExpert> pairs;
  for (int32_t i = 0; i < num_pairs; ++i) pairs.push_back({i % num_rows, 1 + i % 2});
  const DispatchSlice slice = {rows.view(), row_indices, pairs};
  const FrameHeader header = DispatchHeader(5, 1, slice);
  std::string frame(static_cast<size_t>(header.frame_bytes()), '\0');
  WriteDispatch(header, slice, reinterpret_cast<std::byte*>(frame.data()));
  return frame;
}

std::string With32(std::string frame, size_t offset, int32_t value) {
  std::memcpy(frame.data() + offset, &value, sizeof(value));
  return frame;
}

class ShmSourceTest : public testing::Test {
 protected:
  ShmSourceTest() : weights_(kShape, DType::kF32), experts_(weights_, {1, 2}, DType::kF32) {
    auto source = ShmSource::Create({.shape = kShape, .max_rows = 10}, &experts_.executor);
    M1_CHECK(source.ok());
    source_ = *std::move(source);
    engine_ = std::make_unique<Engine>(&experts_.executor, EngineOptions{}, source_.get());
  }
  ~ShmSourceTest() override { engine_->Stop(); }

  std::unique_ptr<RawClient> Connect() {
    auto client = RawClient::Connect(source_->offer());
    M1_CHECK(client != nullptr);
    return client;
  }

  RandomExperts weights_;
  LocalExperts experts_;
  std::unique_ptr<ShmSource> source_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(ShmSourceTest, MalformedFramesGetErrorFramesAndTheConnectionGoesOn) {
  const std::string good = GoodFrame();
  struct Case {
    std::string frame;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"", "0 bytes"},
      {good.substr(0, 63), "63 bytes"},
      {good + "x", "its header says"},
      {"X" + good.substr(1), "magic"},
      {With32(good, 20, -3), "num_rows"},
      {With32(good, 20, INT32_MAX), "num_rows"},
      {With32(good, 24, INT32_MAX), "hidden"},
      {With32(good, 28, -1), "num_pairs"},
      {With32(good, 64 + 3 * 64, 3), "pair's row 3"},
      {With32(good, 64 + 3 * 64, -1), "pair's row -1"},
      {With32(good, 64 + 3 * 64 + 4, 3), "expert 3 is not hosted"},
      {EncodeErrorFrame(5, absl::InternalError("x")), "not a dispatch"},
      {GoodFrame(11), "11 rows"},
      {GoodFrame(1, 200), "answer of 12864 bytes, a slot has 8192"},
  };
  const auto client = Connect();
  FrameHeader header;
  for (const Case& test_case : cases) {
    EXPECT_THAT(client->Ask(test_case.frame, &header),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test_case.error)));
  }
  EXPECT_OK(client->Ask(good, &header));
  EXPECT_EQ(header.num_pairs, 3);
}

// Noise in every word and slot while the worker works: others are answered, nothing breaks.
TEST_F(ShmSourceTest, NoiseInSharedMemoryHurtsNobodyElse) {
  const auto steady = Connect();
  const std::string good = GoodFrame();
  std::mt19937 random(5);
  const auto hostile = Connect();
  for (int round = 0; round < PropertySteps(3000); ++round) {
    auto* words = reinterpret_cast<std::atomic<uint32_t>*>(hostile->memory.data());
    for (int i = 0; i < 4; ++i) {
      const auto slot = static_cast<int32_t>(random() % 4);
      std::string frame = good;
      for (auto flips = random() % 4; flips > 0; --flips) {
        frame[random() % frame.size()] = static_cast<char>(random());
      }
      std::memcpy(hostile->slots->dispatch(slot), frame.data(), frame.size());
    }
    for (int i = 0; i < 6; ++i)
      words[random() % 32] = random() % 2 == 0 ? static_cast<uint32_t>(random()) : 280U;
    Doorbell(reinterpret_cast<DoorbellWords*>(hostile->worker_bell.data())).Ring();
    if (round % 50 == 0) {
      FrameHeader header;
      ASSERT_OK(steady->Ask(good, &header));
    }
  }
}

// Turns that never rest: the engine's thread must not follow them for ever.
TEST_F(ShmSourceTest, SlotsThatAreRefilledWithoutEndAreTakenOnceEach) {
  engine_->Stop();  // this thread takes its place
  const auto hostile = Connect();
  std::atomic<bool> stop = false;
  std::thread refiller([&] {
    auto* words = reinterpret_cast<std::atomic<uint32_t>*>(hostile->memory.data());
    while (!stop) {
      for (size_t slot = 0; slot < 4; ++slot) ++words[2 * slot];
    }
  });
  const Doorbell answers(reinterpret_cast<DoorbellWords*>(hostile->bell_memory.data()));
  std::vector<EngineJob> jobs;
  uint32_t most = 0;
  while (answers.count() < 10000) {
    const uint32_t before = answers.count();
    source_->TakeJobs(100, &jobs);
    most = std::max(most, answers.count() - before);
  }
  stop = true;
  refiller.join();
  EXPECT_LE(most, 4U);
  EXPECT_TRUE(jobs.empty());
}

TEST_F(ShmSourceTest, ClientsThatVanishLeaveNoDescriptorAndNoConnection) {
  const auto steady = Connect();
  FrameHeader header;
  ASSERT_OK(steady->Ask(GoodFrame(), &header));
  const int64_t before = NumOpenFds();
  for (int round = 0; round < 20; ++round) {
    const auto vanishing = Connect();
    vanishing->Send(GoodFrame());
    ASSERT_OK(steady->Ask(GoodFrame(), &header));
  }
  EXPECT_TRUE(Eventually([&] { return source_->num_connections() == 1; }));
  ASSERT_OK(steady->Ask(GoodFrame(), &header));
  EXPECT_TRUE(Eventually([&] { return NumOpenFds() == before; }));
}

// Slots are pinned for a device's copies from before a dispatch is taken until the connection ends.
TEST_F(ShmSourceTest, SlotsArePinnedWhileTheyAreConnected) {
  const auto gpu = CreateCudaBackend().value();
  const auto pinned_bytes = [] { return cuda::GetSimulatedGpuStats().pinned_bytes; };
  ASSERT_EQ(pinned_bytes(), 0);
  ASSERT_OK_AND_ASSIGN(const auto source, ShmSource::Create({.shape = kShape, .max_rows = 10},
                                                            &experts_.executor, gpu.get()));
  auto client = RawClient::Connect(source->offer());
  ASSERT_NE(client, nullptr);
  EXPECT_TRUE(Eventually([&] { return source->num_connections() == 1; }));
  EXPECT_EQ(pinned_bytes(), kLayout.num_bytes());
  auto second = RawClient::Connect(source->offer());
  EXPECT_TRUE(Eventually([&] { return pinned_bytes() == 2 * kLayout.num_bytes(); }));
  client.reset();
  EXPECT_TRUE(Eventually([&] { return pinned_bytes() == kLayout.num_bytes(); }));
  second.reset();
  EXPECT_TRUE(Eventually([&] { return pinned_bytes() == 0; }));
}

TEST_F(ShmSourceTest, TooManyConnectionsAreRefused) {
  std::vector<std::unique_ptr<RawClient>> clients;
  for (size_t i = 0; i < ShmSource::kMaxConnections; ++i) {
    clients.push_back(Connect());
    ASSERT_OK(clients.back()->refusal);
  }
  EXPECT_THAT(Connect()->refusal, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("64")));
  clients.pop_back();
  EXPECT_TRUE(Eventually([&] { return Connect()->refusal.ok(); }));
}

TEST_F(ShmSourceTest, DrainHangsUpOnceAllIsAnswered) {
  const auto client = Connect();
  FrameHeader header;
  ASSERT_OK(client->Ask(GoodFrame(), &header));
  EXPECT_FALSE(HungUp(client->socket.get()));
  source_->Drain();
  EXPECT_TRUE(Eventually([&] { return HungUp(client->socket.get()); }));
  EXPECT_THAT(Connect()->refusal,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shutting down")));
}

}  // namespace
}  // namespace m1
