// Samples of one prompt: each is bit for bit what it is alone, and the prompt is computed once.
#include <gtest/gtest.h>

#include <random>

#include "tests/support/local_model.h"
#include "tests/support/same_results.h"

namespace m1 {
namespace {

constexpr char kModel[] = "tests/golden/mini-bf16";
constexpr int32_t kNumSamples = 4;
constexpr int32_t kNumNewTokens = 24;

LocalModelOptions Options() {
  LocalModelOptions options;
  options.activation_dtype = DType::kBf16;
  options.target = "";
  return options;
}

// One greedy, the others drawn, with penalties now and then.
std::vector<SequenceStart> Samples(int32_t length, int32_t max_new_tokens = kNumNewTokens) {
  std::mt19937 random(static_cast<uint32_t>(length));
  SequenceStart start;
  for (int32_t i = 0; i < length; ++i) {
    start.token_ids.push_back(static_cast<int32_t>(random() % 512));
  }
  start.prompt_token_count = length;
  start.max_new_tokens = max_new_tokens;
  start.candidate_count = 2;
  start.prompt_group = 5;
  std::vector<SequenceStart> starts;
  for (int32_t i = 0; i < kNumSamples; ++i) {
    start.sampling.seed = static_cast<uint64_t>(i) + 100;
    start.sampling.temperature = i == 2 ? 0.0F : 1.0F;
    start.sampling.repetition_penalty = i == 1 ? 1.2F : 1.0F;
    start.arrival_order = i;
    start.prompt_logprobs = i == 0 && length % 2 == 1;
    starts.push_back(start);
  }
  return starts;
}

std::vector<SequenceResult> Alone(std::vector<SequenceStart> starts) {
  for (SequenceStart& start : starts) start.prompt_group = 0;
  LocalModel model(kModel, Options());
  return model.Run(starts, /*at_once=*/false);
}

class SharedPromptTest : public testing::TestWithParam<int32_t> {};

TEST_P(SharedPromptTest, EachSampleIsWhatItIsAlone) {
  const int32_t length = GetParam();
  const std::vector<SequenceStart> starts = Samples(length);
  LocalModel model(kModel, Options());
  ExpectSame(model.Run(starts), Alone(starts));
  // Of a prompt of one token nothing is shared.
  const int64_t num_forks = length > 1 ? kNumSamples - 1 : 0;
  EXPECT_EQ(model.stats().fork_count, num_forks);
  EXPECT_EQ(model.stats().computed_token_count(),
            kNumSamples * (length + kNumNewTokens - 1) - num_forks * (length - 1));
}

TEST_P(SharedPromptTest, WithFewerPlacesThanSamples) {
  const std::vector<SequenceStart> starts = Samples(GetParam());
  const std::vector<SequenceResult> alone = Alone(starts);
  for (const int32_t max_sequences : {1, 2, 3}) {
    SCOPED_TRACE(max_sequences);
    LocalModelOptions options = Options();
    options.limits.max_sequences = max_sequences;
    options.limits.max_step_tokens = 50;
    LocalModel model(kModel, options);
    ExpectSame(model.Run(starts), alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, SharedPromptTest,
                         testing::Values(1, 2, 31, 32, 33, 63, 64, 65, 128, 1000));

TEST(SharedPromptTest, UnderPreemption) {
  const std::vector<SequenceStart> starts = Samples(70, /*max_new_tokens=*/150);
  LocalModelOptions options = Options();
  options.limits.kv_blocks = 6;
  LocalModel model(kModel, options);
  ExpectSame(model.Run(starts), Alone(starts));
  EXPECT_GT(model.stats().preemption_count, 0);
  EXPECT_GT(model.stats().fork_count, 0);
}

}  // namespace
}  // namespace m1
