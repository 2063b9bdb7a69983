// The promise on a GPU: a request's tokens and logprobs are the same bits whatever runs beside it
// and however it is run, with weights of every format. one_answer_test.cc is this for CPUs.
#include <gtest/gtest.h>

#include <random>

#include "common/exchange/inproc_exchange.h"
#include "common/kernels/cuda_backend.h"
#include "common/model/checkpoint_quantizer.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/local_model.h"
#include "tests/support/one_answer.h"
#include "tests/support/same_results.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

constexpr char kModel[] = "models/tiny";  // heads of 32, which a GPU takes
constexpr char kTooSlow[] = "minutes in the simulator, where operations show the same one by one";

LocalModelOptions GpuOptions() {
  LocalModelOptions options = OneWorkerOptions();
  options.make_backend = [] { return CreateCudaBackend().value(); };
  if (!OnRealGpu()) {
    options.limits = {.max_sequences = 8,
                      .kv_blocks = 64,
                      .max_context_tokens = 1024,
                      .max_step_tokens = 64,
                      .max_replay_tokens = 1000};
  }
  return options;
}

// Greedy and sampled; on a real GPU lengths 1 to 1100.
std::vector<SequenceStart> Requests() {
  std::vector<int32_t> lengths = {33, 1, 5};
  if (OnRealGpu()) {
    lengths = {1, 2, 31, 32, 33, 63, 64, 65, 100, 127, 200, 333, 700, 1100, 5, 40};
  }
  std::mt19937 random(11);
  std::vector<SequenceStart> starts;
  for (const int32_t length : lengths) {
    SequenceStart start = RandomStart(random, length, starts.size());
    start.max_new_tokens = OnRealGpu() ? 20 + static_cast<int32_t>(random() % 30) : 2;
    SetSampling(starts.size(), start);
    starts.push_back(std::move(start));
  }
  return starts;
}

std::vector<int32_t> Budgets() {
  if (OnRealGpu()) return {7, 64, 1000};
  return {24};
}

// Plain weights, and every format of integers.
class GpuOneAnswerTest : public testing::TestWithParam<WeightQuantization> {
 protected:
  GpuOneAnswerTest() : path_(kModel) {
    if (GetParam().format == MatrixFormat::kPlain) return;
    path_ = directory_.Join("quantized");
    const absl::Status status =
        QuantizeCheckpoint({.model_dir = kModel, .out_dir = path_, .quantization = GetParam()});
    EXPECT_TRUE(status.ok()) << status;
  }

  std::vector<SequenceResult> Alone() {
    return LocalModel(path_, GpuOptions()).Run(Requests(), /*at_once=*/false);
  }

  const TempDirectory directory_;
  std::string path_;
};

TEST_P(GpuOneAnswerTest, BatchesBudgetsLanesAndPlacements) {
  const std::vector<SequenceResult> alone = Alone();
  for (const int32_t budget : Budgets()) {
    for (const LanePolicy::Mode lanes : {LanePolicy::Mode::kOne, LanePolicy::Mode::kTwo}) {
      if (!OnRealGpu() && lanes == LanePolicy::Mode::kOne) continue;
      LocalModelOptions options = GpuOptions();
      options.limits.max_step_tokens = budget;
      options.lanes = lanes;
      options.shards = {Range(0, 1), Range(1, 14), Range(14, 32)};
      LocalModel model(path_, options);
      ExpectSame(model.Run(Requests()), alone);
      EXPECT_GT(model.stats().mixed_step_count, 0);
    }
  }
}

// Prefill of an answer gives the bits that decode gave.
TEST_P(GpuOneAnswerTest, AnAnswerScoredAsAPromptHasTheSameLogprobs) {
  if (!OnRealGpu()) GTEST_SKIP() << kTooSlow;
  const std::vector<SequenceResult> alone = Alone();
  std::vector<SequenceStart> starts = Requests();
  for (size_t i = 0; i < starts.size(); ++i) {
    for (const TokenScore& token : alone[i].tokens) starts[i].token_ids.push_back(token.id);
    starts[i].prompt_token_count = static_cast<int32_t>(starts[i].token_ids.size());
    starts[i].max_new_tokens = 0;
    starts[i].prompt_logprobs = true;
  }
  LocalModel model(path_, GpuOptions());
  const std::vector<SequenceResult> results = model.Run(starts);
  for (size_t i = 0; i < starts.size(); ++i) {
    SCOPED_TRACE(i);
    ASSERT_EQ(results[i].prompt.size(), starts[i].token_ids.size());
    const auto answer = static_cast<std::ptrdiff_t>(alone[i].tokens.size());
    ExpectSameTokens({results[i].prompt.end() - answer, results[i].prompt.end()}, alone[i].tokens);
  }
}

TEST_P(GpuOneAnswerTest, APreemptedAnswerIsTheSame) {
  if (!OnRealGpu()) GTEST_SKIP() << kTooSlow;
  std::vector<SequenceStart> starts = Requests();
  starts.resize(8);
  for (SequenceStart& start : starts) start.max_new_tokens = 150;
  const std::vector<SequenceResult> alone =
      LocalModel(path_, GpuOptions()).Run(starts, /*at_once=*/false);
  LocalModelOptions options = GpuOptions();
  options.limits.kv_blocks = 17;
  options.limits.max_step_tokens = 64;
  LocalModel model(path_, options);
  ExpectSame(model.Run(starts), alone);
  EXPECT_GT(model.stats().preemption_count, 0);
}

TEST_P(GpuOneAnswerTest, AnswersAreTheSameEachTime) {
  if (!OnRealGpu()) GTEST_SKIP() << kTooSlow;
  const std::vector<SequenceResult> first = LocalModel(path_, GpuOptions()).Run(Requests());
  for (int again = 1; again < 10; ++again) {
    ExpectSame(LocalModel(path_, GpuOptions()).Run(Requests()), first);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, GpuOneAnswerTest,
    testing::Values(WeightQuantization{},
                    WeightQuantization{.format = MatrixFormat::kInt8, .everything = true},
                    WeightQuantization{
                        .format = MatrixFormat::kInt4, .everything = true, .group_size = 32}),
    [](const auto& instance) -> std::string {
      switch (instance.param.format) {
        case MatrixFormat::kInt8:
          return "int8";
        case MatrixFormat::kInt4:
          return "int4";
        case MatrixFormat::kPlain:
          return "bf16";
      }
      return "";
    });

}  // namespace
}  // namespace m1
