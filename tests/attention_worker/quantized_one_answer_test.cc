// The promise with integer weights: each format against itself.
#include <gtest/gtest.h>

#include <random>

#include "common/kernels/cpu_backend.h"
#include "common/model/checkpoint_quantizer.h"
#include "tests/support/local_model.h"
#include "tests/support/one_answer.h"
#include "tests/support/same_results.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

// Greedy and sampled, lengths 1 to 700.
std::vector<SequenceStart> Requests() {
  std::mt19937 random(13);
  std::vector<SequenceStart> starts;
  for (const int32_t length : {1, 2, 31, 33, 64, 65, 127, 333, 700, 5}) {
    starts.push_back(RandomStart(random, length, starts.size()));
    starts.back().max_new_tokens = 20;
  }
  return starts;
}

class QuantizedOneAnswerTest : public testing::TestWithParam<WeightQuantization> {
 protected:
  QuantizedOneAnswerTest() : path_(directory_.Join("quantized")) {
    const absl::Status status = QuantizeCheckpoint(
        {.model_dir = "tests/golden/mini-bf16", .out_dir = path_, .quantization = GetParam()});
    EXPECT_TRUE(status.ok()) << status;
  }

  // Each request alone, one thread, one expert worker.
  std::vector<SequenceResult> Alone() {
    return LocalModel(path_, OneWorkerOptions()).Run(Requests(), false);
  }

  TempDirectory directory_;
  const std::string path_;
};

TEST_P(QuantizedOneAnswerTest, BatchesChunksPlacementsThreadsAndInstructionSets) {
  const std::vector<SequenceResult> alone = Alone();
  for (const int32_t budget : {7, 64, 1000}) {
    LocalModelOptions options = OneWorkerOptions();
    options.limits.max_step_tokens = budget;
    LocalModel model(path_, options);
    ExpectSame(model.Run(Requests()), alone);
    EXPECT_GT(model.stats().mixed_step_count, 0);
  }
  for (const auto& shards : {std::vector{Range(0, 16), Range(16, 32)},
                             std::vector{Range(0, 1), Range(1, 14), Range(14, 32)}}) {
    LocalModelOptions options = OneWorkerOptions();
    options.shards = shards;
    options.threads = 2;
    LocalModel model(path_, options);
    ExpectSame(model.Run(Requests()), alone);
  }
  for (const std::string& target : SupportedCpuTargets()) {
    LocalModelOptions options = OneWorkerOptions();
    options.target = target;
    LocalModel model(path_, options);
    ExpectSame(model.Run(Requests()), alone);
    std::printf("target %s: ran\n", target.c_str());
  }
}

// The plain loops, every (row, expert) pair alone: slow, so fewer requests.
TEST_P(QuantizedOneAnswerTest, ReferenceKernels) {
  std::vector<SequenceStart> starts = Requests();
  starts.resize(6);
  LocalModel fast(path_, OneWorkerOptions());
  LocalModelOptions options = OneWorkerOptions();
  options.target = "reference";
  options.shards = {};
  LocalModel model(path_, options);
  ExpectSame(model.Run(starts), fast.Run(starts));
}

// fp32 rows on the wire and into the products.
TEST_P(QuantizedOneAnswerTest, Fp32Activations) {
  LocalModelOptions options = OneWorkerOptions();
  options.activation_dtype = DType::kF32;
  const std::vector<SequenceResult> alone = LocalModel(path_, options).Run(Requests(), false);
  options.shards = {Range(0, 5), Range(5, 32)};
  options.threads = 2;
  options.target = SupportedCpuTargets().back();
  LocalModel model(path_, options);
  ExpectSame(model.Run(Requests()), alone);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantizedOneAnswerTest,
    testing::Values(WeightQuantization{.format = MatrixFormat::kInt8},
                    WeightQuantization{.format = MatrixFormat::kInt8, .everything = true},
                    WeightQuantization{
                        .format = MatrixFormat::kInt4, .everything = true, .group_size = 32}),
    [](const auto& instance) {
      return std::string(instance.param.format == MatrixFormat::kInt8 ? "int8" : "int4") +
             (instance.param.everything ? "_all" : "_experts");
    });

}  // namespace
}  // namespace m1
