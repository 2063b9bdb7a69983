// The embedded model on a simulated GPU: layers, sequences' memory, experts, sampling. Its answers
// are close to the CPU's, and the same bits whatever runs beside a request and however it is run.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "common/exchange/inproc_exchange.h"
#include "common/kernels/cuda_backend.h"
#include "tests/support/local_model.h"
#include "tests/support/one_answer.h"
#include "tests/support/same_results.h"

namespace m1 {
namespace {

constexpr char kModel[] = "models/tiny";

LocalModelOptions GpuOptions() {
  LocalModelOptions options = OneWorkerOptions();
  options.make_backend = [] { return CreateCudaBackend().value(); };
  options.limits = {.max_sequences = 8,
                    .kv_blocks = 64,
                    .max_context_tokens = 1024,
                    .max_step_tokens = 64,
                    .max_replay_tokens = 1000};
  return options;
}

// Over a grid line of the states, a KV block, and both at once; greedy and drawn.
std::vector<SequenceStart> Requests() {
  std::mt19937 random(3);
  std::vector<SequenceStart> starts;
  for (const int32_t length : {1, 31, 66}) {
    SequenceStart start = RandomStart(random, length, starts.size());
    start.max_new_tokens = 2;
    start.prompt_logprobs = true;
    start.sampling.top_p = starts.size() == 1 ? 0.9F : 1.0F;
    start.sampling.top_k = starts.size() == 2 ? 40 : 0;
    starts.push_back(std::move(start));
  }
  return starts;
}

const std::vector<SequenceResult>& Alone() {
  static const std::vector<SequenceResult> results = [] {
    LocalModel model(kModel, GpuOptions());
    return model.Run(Requests(), /*at_once=*/false);
  }();
  return results;
}

TEST(GpuModelTest, LogprobsAreNearThoseOfTheCpu) {
  LocalModelOptions options = GpuOptions();
  options.make_backend = nullptr;
  LocalModel cpu(kModel, options);
  const std::vector<SequenceResult> wanted = cpu.Run(Requests(), /*at_once=*/false);
  double sum = 0.0;
  int count = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_EQ(Alone()[i].prompt.size(), wanted[i].prompt.size());
    for (size_t t = 0; t < wanted[i].prompt.size(); ++t) {
      sum += std::abs(Alone()[i].prompt[t].logprob - wanted[i].prompt[t].logprob);
      ++count;
    }
    ASSERT_EQ(Alone()[i].tokens.size(), wanted[i].tokens.size());
    EXPECT_EQ(Alone()[i].tokens[0].id, wanted[i].tokens[0].id) << i;
  }
  EXPECT_GT(count, 60);
  EXPECT_LT(sum / count, 0.05);
  std::printf("mean difference of %d logprobs: %.4f\n", count, sum / count);
}

// Many steps, cut across grid lines and key blocks; each through the layers as two batches.
TEST(GpuModelTest, TogetherEqualsAlone) {
  LocalModelOptions options = GpuOptions();
  options.limits.max_step_tokens = 24;
  options.lanes = LanePolicy::Mode::kTwo;
  LocalModel model(kModel, options);
  ExpectSame(model.Run(Requests()), Alone());
  EXPECT_GT(model.stats().mixed_step_count, 0);
  EXPECT_GT(model.stats().split_step_count, 0);
}

}  // namespace
}  // namespace m1
