// CheckModel of the GPU's backend against what its operations do: models that it takes run through
// all of them, models that it refuses would have failed in one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/kernels/cuda_backend.h"
#include "common/model/checkpoint_quantizer.h"
#include "common/worker/worker_model.h"
#include "tests/support/local_model.h"
#include "tests/support/one_answer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr WeightQuantization kPlain = {};
constexpr WeightQuantization kInt8Experts = {MatrixFormat::kInt8};
constexpr WeightQuantization kInt8 = {MatrixFormat::kInt8, /*everything=*/true};
constexpr WeightQuantization kInt4 = {MatrixFormat::kInt4, /*everything=*/true, 32};
constexpr WeightQuantization kInt4By64 = {MatrixFormat::kInt4, /*everything=*/true, 64};

const nlohmann::json kLightningOnly = {0, 0};
const nlohmann::json kSoftmaxOnly = {1, 1};

struct Case {
  std::string name;
  nlohmann::json changes;    // of the config of a model that is taken
  std::string refusal = "";  // empty: taken
  WeightQuantization quantization = kPlain;
  DType dtype = DType::kBf16;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

std::vector<Case> Cases() {
  return {
      {"Plain", {}},
      {"Heads64", {{"head_dim", 64}}},
      {"Heads128", {{"head_dim", 128}}},
      {"Heads16", {{"head_dim", 16}}, "head_dim is 16, a GPU takes multiples of 32 up to 256 in"},
      {"Heads96",
       {{"head_dim", 96}},
       "head_dim is 96, a GPU takes 32, 64 or 128 in softmax layers"},
      {"Heads256", {{"head_dim", 256}}, "head_dim is 256, a GPU takes 32, 64 or 128 in softmax"},
      {"Lightning96", {{"head_dim", 96}, {"attn_type_list", kLightningOnly}}},
      {"Lightning256", {{"head_dim", 256}, {"attn_type_list", kLightningOnly}}},
      {"Lightning288",
       {{"head_dim", 288}, {"attn_type_list", kLightningOnly}},
       "head_dim is 288, a GPU takes multiples of 32 up to 256 in lightning layers"},
      {"Softmax16",
       {{"head_dim", 16}, {"attn_type_list", kSoftmaxOnly}},
       "head_dim is 16, a GPU takes 32, 64 or 128 in softmax layers"},
      {"OddHeads", {{"num_attention_heads", 3}, {"num_key_value_heads", 1}}},
      {"Hidden40", {{"hidden_size", 40}}},
      {"Hidden36", {{"hidden_size", 36}}, "hidden_size is 36, a GPU takes multiples of 8"},
      {"Intermediate20",
       {{"intermediate_size", 20}},
       "intermediate_size is 20, a GPU takes multiples of 8"},
      {"Shared24", {{"shared_intermediate_size", 24}}},
      {"Shared20",
       {{"shared_intermediate_size", 20}},
       "shared_intermediate_size is 20, a GPU takes multiples of 8"},
      {"Experts256", {{"num_local_experts", 256}, {"num_experts_per_tok", 32}}},
      {"Experts257",
       {{"num_local_experts", 257}},
       "num_local_experts is 257, a GPU takes at most 256"},
      {"Experts33AToken",
       {{"num_local_experts", 40}, {"num_experts_per_tok", 33}},
       "num_experts_per_tok is 33, a GPU takes at most 32"},
      {"Vocabulary3", {{"vocab_size", 3}}},
      {"Fp32", {}, "the weights is fp32, a GPU takes bf16, int8 and int4", kPlain, DType::kF32},
      {"Int8Experts", {{"intermediate_size", 48}}, "", kInt8Experts},
      {"Int8ExpertsHidden40",
       {{"intermediate_size", 48}, {"hidden_size", 40}},
       "hidden_size is 40, a GPU takes multiples of 16 up to 131072 for int8",
       kInt8Experts},
      {"Int8ExpertsIntermediate24",
       {},
       "intermediate_size is 24, a GPU takes multiples of 16 up to 131072 for int8",
       kInt8Experts},
      {"Int8ExpertsOfFp32",
       {{"intermediate_size", 48}},
       "the weights is fp32, a GPU takes",
       kInt8Experts,
       DType::kF32},
      {"Int8", {{"intermediate_size", 48}, {"shared_intermediate_size", 16}}, "", kInt8},
      {"Int8Shared24",
       {{"intermediate_size", 48}, {"shared_intermediate_size", 24}},
       "shared_intermediate_size is 24, a GPU takes multiples of 16",
       kInt8},
      {"Int8OfFp32", {{"intermediate_size", 48}}, "", kInt8, DType::kF32},
      {"Int8OfFp32TiedHead",
       {{"intermediate_size", 48}, {"tie_word_embeddings", true}},
       "",
       kInt8,
       DType::kF32},
      {"Int4", {{"intermediate_size", 96}, {"shared_intermediate_size", 32}}, "", kInt4},
      {"Int4By64", {{"hidden_size", 64}, {"intermediate_size", 64}}, "", kInt4By64},
  };
}

std::string WriteModel(const TempDirectory& directory, const Case& tested) {
  nlohmann::json config = TinyConfig();
  config["head_dim"] = 32;
  config["num_hidden_layers"] = 2;
  config["attn_type_list"] = {0, 1};
  if (!tested.changes.is_null()) config.update(tested.changes);
  const std::string plain =
      WriteTinyCheckpoint(directory, "plain", config, {.dtype = tested.dtype});
  if (tested.quantization.format == MatrixFormat::kPlain) return plain;
  const std::string quantized = directory.Join("quantized");
  EXPECT_OK(QuantizeCheckpoint({plain, quantized, tested.quantization}));
  return quantized;
}

// The first error of requests that use every operation; of short prompts, greedy and
// drawn.
absl::Status RunAll(const std::string& model_directory, int32_t num_experts) {
  LocalModelOptions options;
  options.shards = {Range(0, num_experts)};
  options.activation_dtype = DType::kBf16;
  options.make_backend = [] { return CreateCudaBackend().value(); };
  options.limits = {.max_sequences = 4,
                    .kv_blocks = 8,
                    .max_context_tokens = 128,
                    .max_step_tokens = 64,
                    .max_replay_tokens = 1000};
  LocalModel model(model_directory, options);
  std::vector<SequenceStart> starts(2);
  for (SequenceStart& start : starts) {
    start.prompt_token_count = &start == starts.data() ? 2 : 9;
    start.token_ids.assign(static_cast<size_t>(start.prompt_token_count), 2);
    start.max_new_tokens = 2;
    start.prompt_logprobs = true;
    start.candidate_count = 2;
  }
  starts[1].sampling.temperature = 1;
  starts[1].sampling.top_p = 0.5F;
  absl::Status status;
  for (const SequenceResult& result : model.Run(starts)) status.Update(result.finished->status);
  return status;
}

class GpuShapesTest : public testing::TestWithParam<Case> {};

TEST_P(GpuShapesTest, WhatIsTakenRunsAndWhatIsRefusedWouldFail) {
  const Case& tested = GetParam();
  const TempDirectory directory;
  const std::string model = WriteModel(directory, tested);
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model));
  const absl::Status checked =
      CreateCudaBackend().value()->CheckModel(ModelShapeOf(checkpoint->config()));
  const absl::Status ran = RunAll(model, checkpoint->config().num_experts);
  if (tested.refusal.empty()) {
    EXPECT_OK(checked);
    EXPECT_OK(ran);
  } else {
    EXPECT_THAT(checked, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(tested.refusal)));
    EXPECT_THAT(ran, StatusIs(absl::StatusCode::kInternal, HasSubstr("a GPU takes")));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuShapesTest, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace m1
