#include "common/model/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

using testing::HasSubstr;

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments MomentsOf(ConstTensorView view) {
  double sum = 0;
  double squares = 0;
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    const double value = view.dtype() == DType::kF32 ? view.data_as<float>()[i]
                                                     : Bf16ToFloat(view.data_as<Bf16>()[i]);
    sum += value;
    squares += value * value;
  }
  const auto n = static_cast<double>(view.num_elements());
  return {sum / n, std::sqrt(squares / n - (sum / n) * (sum / n))};
}

TEST(CheckpointWriterTest, WrittenCheckpointOpensInEveryFormatTypeAndSharding) {
  const TempDirectory directory;
  int number = 0;
  for (const bool transformers : {false, true}) {
    for (const ExpertLayout layout : {ExpertLayout::kSeparate, ExpertLayout::kFused}) {
      if (!transformers && layout == ExpertLayout::kFused) continue;
      for (const DType dtype : {DType::kBf16, DType::kF32}) {
        for (const int64_t shard_bytes : {int64_t{0}, int64_t{20000}}) {
          RandomCheckpointOptions options{.dtype = dtype, .layout = layout};
          if (shard_bytes > 0) options.max_shard_bytes = shard_bytes;
          const std::string path =
              WriteTinyCheckpoint(directory, absl::StrCat("c", ++number),
                                  transformers ? TinyTransformersConfig() : TinyConfig(), options);
          ASSERT_OK_AND_ASSIGN(const auto checkpoint, Checkpoint::Open(path));
          EXPECT_EQ(checkpoint->config().weights_dtype, dtype);
          EXPECT_EQ(checkpoint->weight_format(), DTypeName(dtype));
          EXPECT_EQ(std::filesystem::exists(path + "/model.safetensors"), shard_bytes == 0);
        }
      }
    }
  }
}

TEST(CheckpointWriterTest, SharedExpertAndTiedEmbeddingsOpen) {
  const TempDirectory directory;
  nlohmann::json config = TinyConfig();
  config["shared_intermediate_size"] = 40;
  config["tie_word_embeddings"] = true;
  ASSERT_OK_AND_ASSIGN(const auto checkpoint,
                       Checkpoint::Open(WriteTinyCheckpoint(directory, "c", config)));
  const AttentionWeights weights = checkpoint->attention_weights();
  EXPECT_EQ(weights.lm_head.values.data(), weights.embedding.data());
  EXPECT_EQ(weights.layers[0].shared_mlp->up_proj.shape(), (Shape{40, 32}));
}

TEST(CheckpointWriterTest, ValuesAreScaledToBehave) {
  const TempDirectory directory;
  ASSERT_OK_AND_ASSIGN(const auto checkpoint,
                       Checkpoint::Open(WriteTinyCheckpoint(directory, "c", TinyConfig())));
  const AttentionWeights weights = checkpoint->attention_weights();
  // 6144 values: the deviation of a mean is 1.3 % of theirs, that of a deviation 0.9 %.
  const Moments qkv = MomentsOf(weights.layers[0].lightning->qkv_proj.values);
  EXPECT_NEAR(qkv.mean, 0.0, 5 * 0.013 / std::sqrt(32));
  EXPECT_NEAR(qkv.deviation, 1 / std::sqrt(32), 5 * 0.009 / std::sqrt(32));
  EXPECT_NEAR(MomentsOf(weights.embedding).deviation, 1.0, 0.08);
  EXPECT_NEAR(MomentsOf(weights.lm_head.values).deviation, 3 / std::sqrt(32), 0.04);
  EXPECT_NEAR(MomentsOf(weights.final_norm).mean, 1.0, 0.1);
  EXPECT_NEAR(MomentsOf(checkpoint->expert_weights(3, 7).w2.values).deviation, 1 / std::sqrt(24),
              0.03);
}

TEST(CheckpointWriterTest, SeedDecidesEveryByteAndShardingNone) {
  const TempDirectory directory;
  const auto fingerprint = [&](const std::string& name, RandomCheckpointOptions options) {
    return (*Checkpoint::Open(WriteTinyCheckpoint(directory, name, TinyConfig(), options)))
        ->fingerprint();
  };
  const std::string first = fingerprint("a", {.seed = 7});
  EXPECT_EQ(first, fingerprint("b", {.seed = 7}));
  EXPECT_EQ(first, fingerprint("c", {.seed = 7, .max_shard_bytes = 5000}));
  EXPECT_NE(first, fingerprint("d", {.seed = 8}));
  EXPECT_NE(first, fingerprint("e", {.seed = 7, .dtype = DType::kF32}));
  EXPECT_EQ(ReadTextFile(directory.Join("a/model.safetensors")),
            ReadTextFile(directory.Join("b/model.safetensors")));
  // Pinned: benchmarks of different machines and years use the same weights.
  EXPECT_EQ(first, "4aa6deb74606bca08c0db6108e7606952919dc915bcc42b2532083128ed58eff");
}

TEST(CheckpointWriterTest, CopiesTheConfigByteForByte) {
  const TempDirectory directory;
  const std::string path = WriteTinyCheckpoint(directory, "c", TinyConfig());
  EXPECT_EQ(ReadTextFile(path + "/config.json"), ReadTextFile(directory.Join("c.config.json")));
}

TEST(CheckpointWriterTest, RefusesToOverwriteACheckpoint) {
  const TempDirectory directory;
  const std::string path = WriteTinyCheckpoint(directory, "c", TinyConfig());
  EXPECT_THAT(WriteRandomCheckpoint({.config_path = path + "/config.json", .out_dir = path}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("holds a checkpoint already")));
}

TEST(CheckpointWriterTest, SaysWhatIsWrongWithItsOptions) {
  const TempDirectory directory;
  WriteTextFile(directory.Join("config.json"), TinyConfig().dump());
  RandomCheckpointOptions options{.config_path = directory.Join("config.json"),
                                  .out_dir = directory.Join("out")};
  options.dtype = DType::kI8;
  EXPECT_THAT(WriteRandomCheckpoint(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wanted bf16 or fp32")));
  options.dtype = DType::kBf16;
  options.layout = ExpertLayout::kFused;
  EXPECT_THAT(WriteRandomCheckpoint(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model_type minimax")));
  options.layout = ExpertLayout::kSeparate;
  options.config_path = directory.Join("absent.json");
  EXPECT_THAT(WriteRandomCheckpoint(options),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent.json")));
  options.config_path = directory.Join("config.json");
  options.out_dir = directory.Join("config.json/out");
  EXPECT_THAT(WriteRandomCheckpoint(options),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("Not a directory")));
}

TEST(CheckpointWriterTest, StopsWhenToldAndLeavesNothing) {
  const TempDirectory directory;
  WriteTextFile(directory.Join("config.json"), TinyConfig().dump());
  int num_calls = 0;
  EXPECT_THAT(
      WriteRandomCheckpoint({.config_path = directory.Join("config.json"),
                             .out_dir = directory.Join("out"),
                             .max_shard_bytes = 2000,
                             .progress = [&](int64_t, int64_t) { return ++num_calls < 20; }}),
      StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
  EXPECT_TRUE(std::filesystem::is_empty(directory.Join("out")));
}

}  // namespace
}  // namespace m1
