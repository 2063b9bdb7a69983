// What CudaKernelBackend gathers and runs as graphs: on a simulated GPU, which counts them.
#include "common/kernels/cuda/device_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/base/check.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "tests/support/simulated_gpu.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

std::unique_ptr<CudaKernelBackend> NewBackend(size_t max_graphs = GraphCache::kMaxGraphs) {
  Stream stream = nullptr;
  M1_CHECK(OpenStream(&stream) == 0);
  return std::make_unique<CudaKernelBackend>(stream, nullptr, max_graphs);
}

// A segment of some operations: embeddings of ids, scaled and added to themselves.
class Segment {
 public:
  static constexpr int64_t kRows = 3;
  static constexpr int64_t kHidden = 8;

  explicit Segment(CudaKernelBackend* gpu)
      : gpu_(gpu),
        table_(gpu->NewTensor(DType::kF32, {16, kHidden})),
        out_(gpu->NewTensor(DType::kF32, {kRows, kHidden})) {
    Tensor table(DType::kF32, {16, kHidden});
    for (int64_t i = 0; i < 16 * kHidden; ++i) {
      table.data_as<float>()[i] = static_cast<float>(i / kHidden);
    }
    EXPECT_OK(gpu->Upload(table.view(), table_.view()));
  }

  // (1 + scale)^2 times each id.
  std::vector<float> Run(const std::vector<int32_t>& ids, float scale = 1) {
    const auto rows = static_cast<int64_t>(ids.size());
    const TensorView out = out_.view().Rows(0, rows);
    EXPECT_OK(gpu_->Embed(ids, table_.view(), out));
    EXPECT_OK(gpu_->ScaledAdd(1, out, scale, out, out));
    EXPECT_OK(gpu_->ScaledAdd(1, out, scale, out, out));
    Tensor host(DType::kF32, {rows, kHidden});
    EXPECT_OK(gpu_->Download(out, host.view()));
    std::vector<float> firsts;
    for (int64_t row = 0; row < rows; ++row) {
      firsts.push_back(host.data_as<float>()[row * kHidden + kHidden - 1]);
    }
    return firsts;
  }

 private:
  CudaKernelBackend* const gpu_;
  Tensor table_, out_;
};

int64_t GraphRuns() { return GetSimulatedGpuStats().graph_runs; }
int64_t Graphs() { return GetSimulatedGpuStats().graphs; }

TEST(LaunchListTest, ListsAreEqualWhenAllOfThemIs) {
  const int kernels[2] = {};
  ScaledAddArgs args{};
  args.beta = 2;
  const auto list = [&](int kernel, int blocks, const ScaledAddArgs& with, size_t bytes) {
    LaunchList made;
    made.set_copy({nullptr, nullptr, bytes});
    made.Add(&kernels[kernel], {{blocks, 1, 1}, 32, 0}, with);
    return made;
  };
  ScaledAddArgs other = args;
  other.beta = 3;
  EXPECT_TRUE(list(0, 1, args, 4) == list(0, 1, args, 4));
  EXPECT_FALSE(list(0, 1, args, 4) == list(1, 1, args, 4));
  EXPECT_FALSE(list(0, 1, args, 4) == list(0, 2, args, 4));
  EXPECT_FALSE(list(0, 1, args, 4) == list(0, 1, other, 4));
  EXPECT_FALSE(list(0, 1, args, 4) == list(0, 1, args, 8));
  LaunchList longer = list(0, 1, args, 4);
  longer.Add(&kernels[0], {}, args);
  EXPECT_FALSE(longer == list(0, 1, args, 4));
}

TEST(LaunchListTest, OnlyTheGroupsThatAreThereCount) {
  ProductArgs a;
  a.num_groups = 1;
  a.groups[0].n = 8;
  ProductArgs b = a;
  b.groups[1].n = 16;
  EXPECT_TRUE(a == b);
  b.num_groups = a.num_groups = 2;
  EXPECT_FALSE(a == b);
}

TEST(DeviceQueueTest, WhatComesAgainRunsAsAGraphOverNewArrays) {
  const auto gpu = NewBackend();
  Segment segment(gpu.get());
  const int64_t before = GraphRuns();
  EXPECT_EQ(segment.Run({1, 2, 3}), (std::vector<float>{4, 8, 12}));
  EXPECT_EQ(GraphRuns() - before, 0);
  EXPECT_EQ(segment.Run({4, 5, 6}), (std::vector<float>{16, 20, 24}));
  EXPECT_EQ(segment.Run({7, 0, 15}), (std::vector<float>{28, 0, 60}));
  EXPECT_EQ(GraphRuns() - before, 2);
}

TEST(DeviceQueueTest, OtherArgumentsAreNotTakenForTheSame) {
  const auto gpu = NewBackend();
  Segment segment(gpu.get());
  for (int turn = 0; turn < 3; ++turn) segment.Run({1, 2, 3});
  // A float is not in the fingerprint; the number of rows is.
  const int64_t before = GraphRuns();
  EXPECT_EQ(segment.Run({1, 2, 3}, 3), (std::vector<float>{16, 32, 48}));
  EXPECT_EQ(segment.Run({1, 2}), (std::vector<float>{4, 8}));
  EXPECT_EQ(GraphRuns(), before);
  EXPECT_EQ(segment.Run({1, 2, 3}, 3), (std::vector<float>{16, 32, 48}));
  EXPECT_EQ(segment.Run({1, 2, 3}, 1), (std::vector<float>{4, 8, 12}));
}

TEST(DeviceQueueTest, TheOldestGraphMakesRoom) {
  const int64_t before = Graphs();
  {
    const auto gpu = NewBackend(/*max_graphs=*/2);
    Segment segment(gpu.get());
    for (int turn = 0; turn < 4; ++turn) {
      EXPECT_EQ(segment.Run({1}), (std::vector<float>{4}));
      EXPECT_EQ(segment.Run({1, 2}), (std::vector<float>{4, 8}));
      EXPECT_EQ(segment.Run({1, 2, 3}), (std::vector<float>{4, 8, 12}));
      EXPECT_LE(Graphs() - before, 2);
    }
    EXPECT_EQ(Graphs() - before, 2);
    const int64_t runs = GraphRuns();
    segment.Run({1, 2, 3});  // the last used
    EXPECT_EQ(GraphRuns() - runs, 1);
  }
  EXPECT_EQ(Graphs(), before);
}

TEST(DeviceQueueTest, WithoutGraphsTheResultsAreTheSame) {
  const auto gpu = NewBackend(/*max_graphs=*/0);
  Segment segment(gpu.get());
  const int64_t before = GraphRuns();
  for (int turn = 0; turn < 4; ++turn) {
    EXPECT_EQ(segment.Run({1, 2, 3}), (std::vector<float>{4, 8, 12}));
  }
  EXPECT_EQ(GraphRuns(), before);
}

// A tensor may be freed, or another take its place, before somebody waited for what reads it.
TEST(DeviceQueueTest, NoMemoryIsTakenFromUnderLaunches) {
  const auto gpu = NewBackend();
  Tensor x = gpu->NewTensor(DType::kF32, {4, 8});
  Tensor out = gpu->NewTensor(DType::kF32, {4, 8});
  ASSERT_OK(gpu->ScaledAdd(1, x.view(), 1, x.view(), out.view()));
  x = gpu->NewTensor(DType::kF32, {8, 8});
  Tensor host(DType::kF32, {4, 8});
  EXPECT_OK(gpu->Download(out.view(), host.view()));
}

TEST(DeviceQueueTest, NothingIsDoneBeforeSubmit) {
  const auto gpu = NewBackend();
  Tensor x = gpu->NewTensor(DType::kF32, {4, 8});
  ASSERT_OK(gpu->ScaledAdd(1, x.view(), 1, x.view(), x.view()));
  const int64_t before = GetSimulatedGpuStats().launches;
  ASSERT_EQ(Synchronize(gpu->stream()), 0);
  EXPECT_EQ(GetSimulatedGpuStats().launches, before);
  ASSERT_OK(gpu->Submit());
  ASSERT_EQ(Synchronize(gpu->stream()), 0);
  EXPECT_EQ(GetSimulatedGpuStats().launches, before + 1);
}

}  // namespace
}  // namespace m1::cuda
