// What a worker with a GPU does before it serves: on a simulated one.
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <utility>
#include <vector>

#include "common/kernels/cuda_backend.h"
#include "common/model/config.h"
#include "tests/support/local_model.h"
#include "tests/support/one_answer.h"
#include "tests/support/same_results.h"
#include "tests/support/simulated_gpu.h"

namespace m1 {
namespace {

constexpr char kModel[] = "models/tiny";

LocalModelOptions Options(bool warm_up) {
  LocalModelOptions options = OneWorkerOptions();
  options.make_backend = [] { return CreateCudaBackend().value(); };
  options.warm_up = warm_up;
  options.limits = {.max_sequences = 2,
                    .kv_blocks = 3,
                    .max_context_tokens = 160,
                    .max_step_tokens = 12,
                    .max_replay_tokens = 1000};
  return options;
}

std::vector<SequenceStart> Requests() {
  std::mt19937 random(5);
  std::vector<SequenceStart> starts;
  for (const int32_t length : {3, 14}) {
    SequenceStart start = RandomStart(random, length, starts.size());
    start.max_new_tokens = 2;
    start.sampling.top_p = 0.9F;
    starts.push_back(std::move(start));
  }
  return starts;
}

TEST(WarmUpTest, RequestsTakeNoMoreMemoryAndHaveTheSameAnswers) {
  LocalModel model(kModel, Options(/*warm_up=*/true));
  const int64_t allocations = cuda::GetSimulatedGpuStats().allocations;
  const std::vector<SequenceResult> warm = model.Run(Requests());
  EXPECT_EQ(cuda::GetSimulatedGpuStats().allocations, allocations);

  LocalModel cold_model(kModel, Options(/*warm_up=*/false));
  const int64_t cold_allocations = cuda::GetSimulatedGpuStats().allocations;
  ExpectSame(cold_model.Run(Requests()), warm);
  EXPECT_GT(cuda::GetSimulatedGpuStats().allocations, cold_allocations)
      << "nothing is allocated late: warming up has no use";
}

// More slots than rows of a step, fewer blocks than slots, one of everything: each is a worker that
// somebody may start.
TEST(WarmUpTest, AnyLimitsWillDo) {
  for (const auto& [sequences, blocks, context, rows] : std::vector<std::array<int, 4>>{
           {8, 16, 1000, 3}, {8, 2, 100, 4}, {1, 1, 1, 1}, {3, 7, 40, 64}}) {
    LocalModelOptions options = OneWorkerOptions();
    options.warm_up = true;
    options.limits.max_sequences = sequences;
    options.limits.kv_blocks = blocks;
    options.limits.max_context_tokens = context;
    options.limits.max_step_tokens = rows;
    const LocalModel model(kModel, options);
  }
}

// Steps with as many rows as one before are, but for the experts, a graph for each layer.
TEST(WarmUpTest, DecodeRunsAsGraphs) {
  constexpr int kTokens = 6;
  LocalModel model(kModel, Options(/*warm_up=*/false));
  std::mt19937 random(6);
  SequenceStart start = RandomStart(random, /*length=*/3, /*request=*/1);
  start.max_new_tokens = kTokens;
  const int64_t before = cuda::GetSimulatedGpuStats().graph_runs;
  model.Run({start});
  const int64_t runs = cuda::GetSimulatedGpuStats().graph_runs - before;
  const int64_t num_layers = LoadModelConfig(kModel).value().num_layers;
  // One step is the prompt's, the first of the others is new.
  EXPECT_GE(runs, (kTokens - 2) * num_layers);
}

}  // namespace
}  // namespace m1
