// The promise: a request's tokens and logprobs are the same bits whatever runs beside it and
// however it is run.
#include "tests/support/one_answer.h"

#include <gtest/gtest.h>

#include <random>

#include "common/kernels/cpu_backend.h"
#include "tests/support/local_model.h"
#include "tests/support/same_results.h"

namespace m1 {
namespace {

constexpr char kModel[] = "tests/golden/mini-bf16";

// Greedy and sampled, lengths 1 to 1100.
std::vector<SequenceStart> Requests() {
  std::mt19937 random(11);
  std::vector<SequenceStart> starts;
  for (const int32_t length :
       {1, 2, 31, 32, 33, 63, 64, 65, 100, 127, 200, 333, 700, 1100, 5, 40}) {
    SequenceStart start = RandomStart(random, length, starts.size());
    start.max_new_tokens = 20 + static_cast<int32_t>(random() % 30);
    SetSampling(starts.size(), start);
    starts.push_back(std::move(start));
  }
  return starts;
}

class OneAnswerTest : public testing::Test {
 protected:
  // Each request alone, one thread, one expert worker.
  static const std::vector<SequenceResult>& Alone() {
    static const std::vector<SequenceResult> results = [] {
      LocalModel model(kModel, OneWorkerOptions());
      return model.Run(Requests(), /*at_once=*/false);
    }();
    return results;
  }
};

TEST_F(OneAnswerTest, BatchesAndBudgets) {
  for (const int32_t budget : {7, 64, 1000}) {
    LocalModelOptions options = OneWorkerOptions();
    options.limits.max_step_tokens = budget;
    LocalModel model(kModel, options);
    ExpectSame(model.Run(Requests()), Alone());
    std::printf("budget %d: %ld steps, %ld mixed, at most %d rows\n", budget,
                model.stats().step_count, model.stats().mixed_step_count,
                model.stats().max_step_rows);
    EXPECT_GT(model.stats().mixed_step_count, 0);
  }
}

// Sequences are cut in the middle, in prefill and in decode.
TEST_F(OneAnswerTest, BatchesInFlight) {
  for (const int32_t budget : {7, 64, 1000}) {
    LocalModelOptions options = OneWorkerOptions();
    options.limits.max_step_tokens = budget;
    options.lanes = LanePolicy::Mode::kTwo;
    LocalModel model(kModel, options);
    ExpectSame(model.Run(Requests()), Alone());
    EXPECT_GT(model.stats().split_step_count, model.stats().step_count / 2);
  }
}

TEST_F(OneAnswerTest, PlacementsOfExperts) {
  const std::vector<std::vector<std::vector<int32_t>>> placements = {
      {Range(0, 16), Range(16, 32)},
      {Range(0, 8), Range(8, 16), Range(16, 24), Range(24, 32)},
      {Range(0, 1), Range(1, 14), Range(14, 32)},
      {}};  // every pair alone
  for (const auto& shards : placements) {
    LocalModelOptions options = OneWorkerOptions();
    options.shards = shards;
    LocalModel model(kModel, options);
    ExpectSame(model.Run(Requests()), Alone());
  }
}

TEST_F(OneAnswerTest, ThreadsAndInstructionSets) {
  for (const std::string& target : CompiledCpuTargets()) {
    const std::vector<std::string> supported = SupportedCpuTargets();
    if (std::find(supported.begin(), supported.end(), target) == supported.end()) {
      std::printf("target %s: missing on this machine\n", target.c_str());
      continue;
    }
    for (const int threads : {1, 2}) {
      LocalModelOptions options = OneWorkerOptions();
      options.target = target;
      options.threads = threads;
      LocalModel model(kModel, options);
      ExpectSame(model.Run(Requests()), Alone());
    }
    std::printf("target %s: ran\n", target.c_str());
  }
}

// The plain loops: slow, so fewer requests.
TEST_F(OneAnswerTest, ReferenceKernels) {
  LocalModelOptions options = OneWorkerOptions();
  options.target = "reference";
  LocalModel model(kModel, options);
  std::vector<SequenceStart> starts = Requests();
  starts.resize(10);
  ExpectSame(model.Run(starts), {Alone().begin(), Alone().begin() + 10});
}

TEST_F(OneAnswerTest, Preemption) {
  std::vector<SequenceStart> starts = Requests();
  starts.resize(8);
  for (SequenceStart& start : starts) start.max_new_tokens = 150;
  LocalModel roomy(kModel, OneWorkerOptions());
  const std::vector<SequenceResult> expected = roomy.Run(starts, /*at_once=*/false);
  LocalModelOptions options = OneWorkerOptions();
  options.limits.kv_blocks = 17;
  options.limits.max_step_tokens = 64;
  LocalModel model(kModel, options);
  const std::vector<SequenceResult> results = model.Run(starts);
  ExpectSame(results, expected);
  EXPECT_GT(model.stats().preemption_count, 0);
}

// A client that lost its stream sends what it has of the answer: the rest is the same.
TEST_F(OneAnswerTest, AnAnswerGoesOnFromAPromptThatHoldsItsBeginning) {
  std::vector<SequenceStart> starts = Requests();
  std::vector<size_t> kept;
  for (size_t i = 0; i < starts.size(); ++i) {
    kept.push_back((i * 7) % Alone()[i].tokens.size());
    for (size_t t = 0; t < kept[i]; ++t) starts[i].token_ids.push_back(Alone()[i].tokens[t].id);
    starts[i].prompt_token_count = static_cast<int32_t>(starts[i].token_ids.size());
    starts[i].generated_prompt_token_count = static_cast<int32_t>(kept[i]);
  }
  LocalModel model(kModel, OneWorkerOptions());
  const std::vector<SequenceResult> results = model.Run(starts);
  for (size_t i = 0; i < starts.size(); ++i) {
    SCOPED_TRACE(i);
    const std::vector<TokenScore>& whole = Alone()[i].tokens;
    ExpectSameTokens(results[i].tokens,
                     {whole.begin() + static_cast<std::ptrdiff_t>(kept[i]), whole.end()});
    EXPECT_EQ(results[i].finished->end, Alone()[i].finished->end);
    if (!starts[i].prompt_logprobs) continue;
    EXPECT_EQ(results[i].prompt.size(), starts[i].token_ids.size());
  }
}

TEST_F(OneAnswerTest, AnAnswerScoredAsAPromptHasTheSameLogprobs) {
  std::vector<SequenceStart> starts = Requests();
  for (size_t i = 0; i < starts.size(); ++i) {
    for (const TokenScore& token : Alone()[i].tokens) starts[i].token_ids.push_back(token.id);
    starts[i].prompt_token_count = static_cast<int32_t>(starts[i].token_ids.size());
    starts[i].max_new_tokens = 0;
    starts[i].prompt_logprobs = true;
  }
  LocalModel model(kModel, OneWorkerOptions());
  const std::vector<SequenceResult> results = model.Run(starts);
  for (size_t i = 0; i < starts.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_TRUE(results[i].tokens.empty());
    ASSERT_EQ(results[i].prompt.size(), starts[i].token_ids.size());
    const auto answer = static_cast<std::ptrdiff_t>(Alone()[i].tokens.size());
    ExpectSameTokens({results[i].prompt.end() - answer, results[i].prompt.end()},
                     Alone()[i].tokens);
  }
}

}  // namespace
}  // namespace m1
