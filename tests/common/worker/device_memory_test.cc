// Weights and exchanged rows between the host's memory and a (simulated) GPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "common/exchange/inproc_exchange.h"
#include "common/kernels/cuda_backend.h"
#include "common/worker/device_weights.h"
#include "common/worker/staged_exchange.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr DType kAct = DType::kBf16;
const std::vector<int32_t> kAllExperts = {0, 1, 2, 3, 4, 5, 6, 7};

std::vector<std::byte> Bytes(KernelBackend& backend, ConstTensorView view) {
  Tensor host(view.dtype(), view.shape());
  EXPECT_OK(backend.Download(view, host.view()));
  const auto* begin = static_cast<const std::byte*>(host.view().data());
  return {begin, begin + host.view().num_bytes()};
}

std::vector<std::byte> Bytes(const Tensor& tensor) {
  const auto* begin = static_cast<const std::byte*>(tensor.view().data());
  return {begin, begin + tensor.view().num_bytes()};
}

// A model of one softmax layer whose head is its embedding.
struct SmallWeights {
  Tensor embedding{kAct, {9, 8}};
  Tensor matrix{kAct, {8, 8}};
  Tensor integers{DType::kI8, {8, 8}};
  Tensor scales{DType::kF32, {8}};
  Tensor vector{DType::kF32, {8}};

  AttentionWeights views() const {
    AttentionLayerWeights layer;
    layer.input_norm = layer.post_attention_norm = vector.view();
    layer.gate = matrix.view();
    layer.softmax.emplace();
    layer.softmax->q_proj = MatrixView(integers.view(), scales.view());
    layer.softmax->k_proj = layer.softmax->v_proj = layer.softmax->o_proj = matrix.view();
    AttentionWeights weights;
    weights.embedding = embedding.view();
    weights.lm_head = embedding.view();
    weights.final_norm = vector.view();
    weights.layers.push_back(layer);
    return weights;
  }
};

TEST(DeviceWeightsTest, EveryTensorIsCopiedOnce) {
  SmallWeights small;
  small.integers.data_as<int8_t>()[5] = 77;
  small.scales.data_as<float>()[3] = 0.5F;
  const auto gpu = CreateCudaBackend().value();
  DeviceWeights device(gpu.get());
  ASSERT_OK_AND_ASSIGN(const AttentionWeights weights, device.Add(small.views()));
  EXPECT_EQ(weights.lm_head.values.data(), weights.embedding.data());
  EXPECT_NE(weights.embedding.data(), small.embedding.view().data());
  EXPECT_EQ(device.num_bytes(), 9 * 8 * 2 + 8 * 8 * 2 + 8 * 8 + 8 * 4 + 8 * 4);
  const SoftmaxWeights& softmax = *weights.layers[0].softmax;
  EXPECT_EQ(Bytes(*gpu, softmax.q_proj.values), Bytes(small.integers));
  EXPECT_EQ(Bytes(*gpu, softmax.q_proj.scales), Bytes(small.scales));
}

TEST(DeviceWeightsTest, MemoryOfTheHostIsUsedAsItIs) {
  const SmallWeights small;
  const auto backend = CreateReferenceBackend();
  DeviceWeights device(backend.get());
  ASSERT_OK_AND_ASSIGN(const AttentionWeights weights, device.Add(small.views()));
  EXPECT_EQ(weights.embedding.data(), small.embedding.view().data());
  EXPECT_EQ(device.num_bytes(), 0);
}

// The experts compute on the CPU: nothing may change on the way.
TEST(StagedExchangeTest, RowsComeDownAndResultsGoUp) {
  const RandomExperts weights(kExchangeShape, kAct);
  LocalExperts local(weights, kAllExperts, kAct);
  InprocExchange inproc(kExchangeShape.num_experts, {&local.executor});
  const auto gpu = CreateCudaBackend().value();
  StagedExchange exchange(gpu.get(), &inproc);
  EXPECT_TRUE(exchange.MissingExperts().empty());
  std::vector<RandomBatch> batches;
  batches.emplace_back(kExchangeShape, kAct, 13, 1);
  batches.emplace_back(kExchangeShape, kAct, 5, 2);
  std::vector<Tensor> rows;
  std::vector<Tensor> outs;
  for (int32_t lane = 0; lane < kExchangeLanes; ++lane) {
    DispatchBatch batch = batches[static_cast<size_t>(lane)].batch(lane);
    rows.push_back(gpu->NewTensor(kAct, batch.rows.shape()));
    outs.push_back(gpu->NewTensor(kAct, batch.out.shape()));
    ASSERT_OK(gpu->Upload(batch.rows, rows.back().view()));
    batch.rows = rows.back().view();
    batch.out = outs.back().view();
    ASSERT_OK(exchange.Dispatch(batch));
  }
  for (int32_t lane = 0; lane < kExchangeLanes; ++lane) {
    const auto i = static_cast<size_t>(lane);
    ASSERT_OK(exchange.Combine(lane));
    EXPECT_EQ(Bytes(*gpu, outs[i].view()), ComputeAlone(weights, batches[i]));
  }
}

class GpuExperts {
 public:
  explicit GpuExperts(const RandomExperts& weights)
      : device_(gpu_.get()),
        store_(ExpertStore::Create(weights.shape(), kAllExperts,
                                   [&](int32_t layer, int32_t expert) {
                                     return device_.Add(weights.weights(layer, expert));
                                   })
                   .value()),
        experts_(&store_, gpu_.get(), kAct),
        executor_(gpu_.get(), &experts_) {}

  StagedExecutor& executor() { return executor_; }

 private:
  const std::unique_ptr<KernelBackend> gpu_ = CreateCudaBackend().value();
  DeviceWeights device_;
  ExpertStore store_;
  ExpertFfn experts_;
  StagedExecutor executor_;
};

double LargestDifference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size() / sizeof(Bf16); ++i) {
    const auto value = [i](const std::vector<std::byte>& bytes) {
      return double{Bf16ToFloat(reinterpret_cast<const Bf16*>(bytes.data())[i])};
    };
    worst = std::max(worst, std::abs(value(a) - value(b)));
  }
  return worst;
}

TEST(StagedExecutorTest, JobsTogetherEqualJobsAlone) {
  const RandomExperts weights(kExchangeShape, kAct);
  GpuExperts gpu(weights);
  std::vector<RandomBatch> batches;
  batches.emplace_back(kExchangeShape, kAct, 11, 1);
  batches.emplace_back(kExchangeShape, kAct, 4, 2);
  batches[1].layer = batches[0].layer;
  std::vector<std::vector<RowExpert>> pairs = {PairsOf(batches[0]), PairsOf(batches[1])};
  std::vector<ExpertJob> jobs;
  for (size_t i = 0; i < 2; ++i) {
    const Shape shape = {static_cast<int64_t>(pairs[i].size()), kExchangeShape.hidden_size};
    jobs.push_back(
        {batches[i].layer, batches[i].rows.view(), pairs[i], batches[i].out.view().Reshape(shape)});
    ASSERT_OK(gpu.executor().ValidateJob(jobs.back()));
  }
  ASSERT_OK(gpu.executor().Execute(jobs));
  for (size_t i = 0; i < 2; ++i) {
    const std::vector<std::byte> together = batches[i].out_bytes();
    EXPECT_LT(LargestDifference(together, ComputeAlone(weights, batches[i])), 0.07);
    batches[i].out = Tensor(kAct, batches[i].out.shape());
    jobs[i].out = batches[i].out.view().Reshape(jobs[i].out.shape());
    ASSERT_OK(gpu.executor().Execute({&jobs[i], 1}));
    EXPECT_EQ(batches[i].out_bytes(), together);
  }
}

}  // namespace
}  // namespace m1
