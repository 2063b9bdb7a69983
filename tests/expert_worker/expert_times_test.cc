// Compute times are those of the device, not of asking it.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/kernels/cuda_backend.h"
#include "common/worker/device_weights.h"
#include "expert_worker/expert_ffn.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/support/simulated_gpu.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr DType kAct = DType::kBf16;
const std::vector<int32_t> kExperts = {0, 1, 2, 3, 4, 5, 6, 7};
const std::vector<RowExpert> kPairs = {{0, 2}, {1, 2}, {2, 2}, {0, 5}};

// Experts on a backend, with a job whose rows lie in its memory.
class Experts {
 public:
  explicit Experts(std::unique_ptr<KernelBackend> backend)
      : backend_(std::move(backend)),
        device_(backend_.get()),
        store_(ExpertStore::Create(kExchangeShape, kExperts,
                                   [this](int32_t layer, int32_t expert) {
                                     return device_.Add(weights_.weights(layer, expert));
                                   })
                   .value()),
        ffn_(&store_, backend_.get(), kAct),
        rows_(backend_->NewTensor(kAct, {3, kExchangeShape.hidden_size})),
        out_(backend_->NewTensor(kAct, {4, kExchangeShape.hidden_size})) {}

  void Run() {
    const ExpertJob job = {0, rows_.view(), kPairs, out_.view()};
    ASSERT_OK(ffn_.Execute({&job, 1}));
  }
  void WaitForDevice() {
    Tensor host(kAct, out_.shape());
    ASSERT_OK(backend_->Download(out_.view(), host.view()));
  }
  absl::Duration Time(int32_t expert) const {
    return ffn_.ComputeTimes()[static_cast<size_t>(expert)].second;
  }

 private:
  const RandomExperts weights_{kExchangeShape, kAct};
  const std::unique_ptr<KernelBackend> backend_;
  DeviceWeights device_;
  ExpertStore store_;
  ExpertFfn ffn_;
  Tensor rows_, out_;
};

// The two products of a run take two milliseconds of the simulated clock, by rows 3 to 1.
TEST(ExpertTimesTest, ARunOfADeviceCountsOnceItIsDone) {
  Experts experts(CreateCudaBackend().value());
  experts.Run();
  EXPECT_EQ(experts.Time(2), absl::ZeroDuration());
  experts.WaitForDevice();
  experts.Run();
  EXPECT_EQ(experts.Time(2), absl::Microseconds(1500));
  EXPECT_EQ(experts.Time(5), absl::Microseconds(500));
  EXPECT_EQ(experts.Time(0), absl::ZeroDuration());
  experts.WaitForDevice();
  experts.Run();
  EXPECT_EQ(experts.Time(2), absl::Milliseconds(3));
}

TEST(ExpertTimesTest, ARunOfTheHostCountsAtOnce) {
  Experts experts(CreateReferenceBackend());
  experts.Run();
  EXPECT_GT(experts.Time(5), absl::ZeroDuration());
  EXPECT_GT(experts.Time(2), experts.Time(5));
}

TEST(DeviceTimerTest, WhatTheDeviceDoesNotReachIsNotTold) {
  std::vector<absl::Duration> times;
  const auto tell = [&times](absl::Duration time) { times.push_back(time); };
  const auto gpu = CreateCudaBackend().value();
  Tensor x = gpu->NewTensor(DType::kF32, {8});
  const auto timer = gpu->NewTimer();
  const auto launch = [&] { ASSERT_OK(gpu->ScaledAdd(1, x.view(), 1, x.view(), x.view())); };
  timer->Begin();
  launch();
  timer->Begin();  // the other one is forgotten
  launch();
  launch();
  timer->End(tell);
  Tensor host(DType::kF32, {8});
  ASSERT_OK(gpu->Download(x.view(), host.view()));
  timer->Begin();
  EXPECT_EQ(times, std::vector{absl::Milliseconds(2)});
  cuda::LoseSimulatedGpu();
  timer->End(tell);
  timer->Begin();
  timer->End(tell);
  EXPECT_EQ(times.size(), 1);
  cuda::ResetSimulatedGpu();
}

// Far more than the device has done: they are measured again once it has.
TEST(DeviceTimerTest, IntervalsThatWaitAreFew) {
  int num_told = 0;
  const auto gpu = CreateCudaBackend().value();
  const auto timer = gpu->NewTimer();
  const auto measure = [&] {
    timer->Begin();
    timer->End([&num_told](absl::Duration) { ++num_told; });
  };
  Tensor x = gpu->NewTensor(DType::kF32, {8});
  Tensor host(DType::kF32, {8});
  for (int turn = 1; turn <= 2; ++turn) {
    for (int i = 0; i < 100; ++i) measure();
    ASSERT_OK(gpu->Download(x.view(), host.view()));
    timer->Begin();
    EXPECT_EQ(num_told, turn * 64);
  }
}

}  // namespace
}  // namespace m1
