// Rows on their way between a device and an exchange lie in pinned memory, where there is some.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "common/exchange/inproc_exchange.h"
#include "common/kernels/cuda_backend.h"
#include "common/shm/shared_memory.h"
#include "common/worker/device_weights.h"
#include "common/worker/staged_exchange.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/support/simulated_gpu.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr DType kAct = DType::kBf16;
const std::vector<int32_t> kAllExperts = {0, 1, 2, 3, 4, 5, 6, 7};
constexpr int64_t kUnlimited = int64_t{1} << 40;

int64_t PageableCopies() { return cuda::GetSimulatedGpuStats().pageable_copies; }

// One batch through a StagedExchange to experts on the CPU.
struct ExchangedBatch {
  int64_t pageable_copies = 0;
  std::vector<std::byte> out;
};

ExchangedBatch Exchange(const RandomExperts& weights, RandomBatch& random) {
  LocalExperts local(weights, kAllExperts, kAct);
  InprocExchange inproc(kExchangeShape.num_experts, {&local.executor});
  const auto gpu = CreateCudaBackend().value();
  StagedExchange exchange(gpu.get(), &inproc);
  DispatchBatch batch = random.batch(0);
  Tensor rows = gpu->NewTensor(kAct, batch.rows.shape());
  Tensor out = gpu->NewTensor(kAct, batch.out.shape());
  EXPECT_OK(gpu->Upload(batch.rows, rows.view()));
  batch.rows = rows.view();
  batch.out = out.view();
  const int64_t before = PageableCopies();
  EXPECT_OK(exchange.Dispatch(batch));
  EXPECT_OK(exchange.Combine(0));
  ExchangedBatch result{.pageable_copies = PageableCopies() - before, .out = {}};
  Tensor down(kAct, batch.out.shape());
  EXPECT_OK(gpu->Download(out.view(), down.view()));
  const auto* begin = static_cast<const std::byte*>(down.view().data());
  result.out.assign(begin, begin + down.view().num_bytes());
  return result;
}

TEST(PinnedExchangeTest, LanesArePinned) {
  const RandomExperts weights(kExchangeShape, kAct);
  RandomBatch batch(kExchangeShape, kAct, 13, 1);
  const ExchangedBatch exchanged = Exchange(weights, batch);
  EXPECT_EQ(exchanged.pageable_copies, 0);
  EXPECT_EQ(exchanged.out, ComputeAlone(weights, batch));
  EXPECT_EQ(cuda::GetSimulatedGpuStats().pinned_bytes, 0);  // given back
}

TEST(PinnedExchangeTest, WithoutPinnedMemoryRowsTakeADetourAndOneLineSaysSo) {
  const RandomExperts weights(kExchangeShape, kAct);
  RandomBatch batch(kExchangeShape, kAct, 13, 1);
  cuda::LimitPinnedMemory(0);
  testing::internal::CaptureStderr();
  const ExchangedBatch exchanged = Exchange(weights, batch);
  const std::string log = testing::internal::GetCapturedStderr();
  cuda::LimitPinnedMemory(kUnlimited);
  EXPECT_GT(exchanged.pageable_copies, 0);
  EXPECT_EQ(exchanged.out, ComputeAlone(weights, batch));
  EXPECT_THAT(log, HasSubstr("event=not_pinned"));
  EXPECT_THAT(log, HasSubstr("error=cudaErrorMemoryAllocation"));
  EXPECT_EQ(log.find("event=not_pinned"), log.rfind("event=not_pinned"));
}

// Jobs whose rows and results lie in shared memory, as ShmSource makes them.
class SharedJob {
 public:
  SharedJob(const RandomBatch& random, KernelBackend* gpu)
      : memory_(SharedMemory::Create(kBytes).value()),
        pinned_(gpu, memory_.data(), kBytes),
        pairs_(PairsOf(random)) {
    const ConstTensorView rows = random.rows.view();
    std::memcpy(memory_.data(), rows.data(), static_cast<size_t>(rows.num_bytes()));
    job_ = {random.layer, ConstTensorView(memory_.data(), kAct, rows.shape()), pairs_,
            TensorView(memory_.data() + kBytes / 2, kAct,
                       {static_cast<int64_t>(pairs_.size()), kExchangeShape.hidden_size})};
  }
  const ExpertJob& job() const { return job_; }

 private:
  static constexpr int64_t kBytes = 1 << 20;

  const SharedMemory memory_;
  const PinnedHost pinned_;
  const std::vector<RowExpert> pairs_;
  ExpertJob job_;
};

TEST(PinnedExchangeTest, SharedMemoryIsCopiedWithoutADetour) {
  const RandomExperts weights(kExchangeShape, kAct);
  const auto gpu = CreateCudaBackend().value();
  DeviceWeights device(gpu.get());
  const ExpertStore store =
      ExpertStore::Create(kExchangeShape, kAllExperts, [&](int32_t layer, int32_t expert) {
        return device.Add(weights.weights(layer, expert));
      }).value();
  ExpertFfn experts(&store, gpu.get(), kAct);
  StagedExecutor executor(gpu.get(), &experts);
  const RandomBatch random(kExchangeShape, kAct, 11, 1);
  const SharedJob pinned(random, gpu.get());
  const SharedJob pageable(random, nullptr);
  const int64_t before = PageableCopies();
  ASSERT_OK(executor.Execute({&pinned.job(), 1}));
  EXPECT_EQ(PageableCopies(), before);
  ASSERT_OK(executor.Execute({&pageable.job(), 1}));
  EXPECT_EQ(PageableCopies(), before + 2);
  EXPECT_EQ(std::memcmp(pinned.job().out.data(), pageable.job().out.data(),
                        static_cast<size_t>(pinned.job().out.num_bytes())),
            0);
}

}  // namespace
}  // namespace m1
