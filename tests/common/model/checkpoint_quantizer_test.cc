// Checkpoints that m1 quantize makes: what is in them, how far off the numbers are, and what a
// broken one is refused with.
#include "common/model/checkpoint_quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"

#include "common/model/checkpoint.h"
#include "tests/support/file_image.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kW2 = "model.layers.3.block_sparse_moe.experts.7.w2.weight";
constexpr const char* kQkv = "model.layers.0.self_attn.qkv_proj.weight";
constexpr WeightQuantization kInt8All = {.format = MatrixFormat::kInt8, .everything = true};
constexpr WeightQuantization kInt8Experts = {.format = MatrixFormat::kInt8};
constexpr WeightQuantization kInt4All = {
    .format = MatrixFormat::kInt4, .everything = true, .group_size = 32};

// All rows have 64 or 128 elements, so that groups divide them; with a shared expert.
json WideConfig() {
  json config = TinyConfig();
  config["hidden_size"] = 64;
  config["intermediate_size"] = 128;
  config["shared_intermediate_size"] = 128;
  return config;
}

float ScaleOf(const MatrixView& m, int64_t row, int64_t column) {
  if (m.format() == MatrixFormat::kInt8) return m.scales.data_as<float>()[row];
  return Bf16ToFloat(m.scales.data_as<Bf16>()[row * m.scales.dim(1) + column / m.group_size()]);
}

float At(const MatrixView& m, int64_t row, int64_t column) {
  switch (m.format()) {
    case MatrixFormat::kInt8:
      return static_cast<float>(m.values.data_as<int8_t>()[row * m.dim(1) + column]) *
             ScaleOf(m, row, column);
    case MatrixFormat::kInt4: {
      const uint8_t byte = m.values.data_as<uint8_t>()[(row * m.dim(1) + column) / 2];
      return static_cast<float>((column % 2 == 0 ? byte & 0xf : byte >> 4) - 8) *
             ScaleOf(m, row, column);
    }
    case MatrixFormat::kPlain:
      break;
  }
  const int64_t index = row * m.dim(1) + column;
  return m.values.dtype() == DType::kBf16 ? Bf16ToFloat(m.values.data_as<Bf16>()[index])
                                          : m.values.data_as<float>()[index];
}

class CheckpointQuantizerTest : public testing::Test {
 protected:
  std::string Source(const json& config = WideConfig(), RandomCheckpointOptions options = {}) {
    return WriteTinyCheckpoint(directory_, "source", config, options);
  }
  std::string Quantize(const std::string& source, const WeightQuantization& quantization,
                       const std::string& name = "out") {
    const absl::Status status = QuantizeCheckpoint(
        {.model_dir = source, .out_dir = directory_.Join(name), .quantization = quantization});
    EXPECT_OK(status);
    return directory_.Join(name);
  }

  // int8: half a step of the row's scale. int4: half a step, or what was cut off a group's largest
  // elements, which is at most 30 % of them.
  static void ExpectNear(const MatrixView& got, const MatrixView& want) {
    ASSERT_EQ(got.shape(), want.shape());
    double error = 0;
    double square = 0;
    for (int64_t row = 0; row < want.dim(0); ++row) {
      for (int64_t column = 0; column < want.dim(1); ++column) {
        const float exact = At(want, row, column);
        const float difference = std::fabs(At(got, row, column) - exact);
        const float step = ScaleOf(got, row, column);
        const bool int8 = got.format() == MatrixFormat::kInt8;
        ASSERT_LE(difference,
                  std::max(0.5001F * step, int8 ? 0.0F : 0.31F * std::fabs(exact)) + 1e-7F);
        error += double{difference} * double{difference};
        square += double{exact} * double{exact};
      }
    }
    EXPECT_LT(std::sqrt(error / square), got.format() == MatrixFormat::kInt8 ? 0.01 : 0.12);
  }

  TempDirectory directory_;
};

TEST_F(CheckpointQuantizerTest, EveryMatrixIsNearItsSource) {
  const std::string source_path = Source();
  ASSERT_OK_AND_ASSIGN(const auto source, Checkpoint::Open(source_path));
  for (const WeightQuantization& quantization : {kInt8All, kInt4All}) {
    const std::string name = quantization.format == MatrixFormat::kInt8 ? "int8" : "int4";
    ASSERT_OK_AND_ASSIGN(const auto got,
                         Checkpoint::Open(Quantize(source_path, quantization, name)));
    ASSERT_OK(got->PrefetchAttention());
    ASSERT_OK(got->PrefetchExperts({0, 1, 2, 3, 4, 5, 6, 7}));
    const AttentionWeights a = got->attention_weights();
    const AttentionWeights b = source->attention_weights();
    EXPECT_EQ(a.lm_head.format(), quantization.format);
    ExpectNear(a.lm_head, b.lm_head);
    ExpectNear(a.layers[0].lightning->qkv_proj, b.layers[0].lightning->qkv_proj);
    ExpectNear(a.layers[2].lightning->output_gate, b.layers[2].lightning->output_gate);
    ExpectNear(a.layers[2].lightning->out_proj, b.layers[2].lightning->out_proj);
    ExpectNear(a.layers[1].softmax->q_proj, b.layers[1].softmax->q_proj);
    ExpectNear(a.layers[3].softmax->k_proj, b.layers[3].softmax->k_proj);
    ExpectNear(a.layers[3].softmax->v_proj, b.layers[3].softmax->v_proj);
    ExpectNear(a.layers[3].softmax->o_proj, b.layers[3].softmax->o_proj);
    ExpectNear(a.layers[3].shared_mlp->gate_proj, b.layers[3].shared_mlp->gate_proj);
    ExpectNear(a.layers[3].shared_mlp->up_proj, b.layers[3].shared_mlp->up_proj);
    ExpectNear(a.layers[3].shared_mlp->down_proj, b.layers[3].shared_mlp->down_proj);
    for (int32_t layer = 0; layer < 4; ++layer) {
      for (int32_t expert = 0; expert < 8; ++expert) {
        const ExpertWeights x = got->expert_weights(layer, expert);
        const ExpertWeights y = source->expert_weights(layer, expert);
        ExpectNear(x.w1, y.w1);
        ExpectNear(x.w2, y.w2);
        ExpectNear(x.w3, y.w3);
      }
    }
    // The rest as it was.
    EXPECT_EQ(a.embedding.dtype(), DType::kBf16);
    EXPECT_EQ(std::memcmp(a.embedding.data(), b.embedding.data(),
                          static_cast<size_t>(b.embedding.num_bytes())),
              0);
    EXPECT_EQ(std::memcmp(a.layers[0].gate.data(), b.layers[0].gate.data(),
                          static_cast<size_t>(b.layers[0].gate.num_bytes())),
              0);
    EXPECT_EQ(a.layers[3].shared_mlp->coefficient.dtype(), DType::kBf16);
  }
}

TEST_F(CheckpointQuantizerTest, FormatsHaveTheirOwnNamesFingerprintsAndSizes) {
  const std::string source = Source();
  const auto open = [&](const WeightQuantization& quantization, const std::string& name) {
    return *Checkpoint::Open(Quantize(source, quantization, name));
  };
  const auto plain = *Checkpoint::Open(source);
  const auto int8 = open(kInt8Experts, "a");
  const auto int8_all = open(kInt8All, "b");
  const auto int4 = open(kInt4All, "c");
  const auto int4_64 = open({.format = MatrixFormat::kInt4, .group_size = 64}, "d");
  EXPECT_EQ(int8->weight_format(), "int8-experts");
  EXPECT_EQ(int8_all->weight_format(), "int8-all");
  EXPECT_EQ(int4->weight_format(), "int4-g32-all");
  EXPECT_EQ(int4_64->weight_format(), "int4-g64-experts");
  const std::set<std::string> fingerprints = {plain->fingerprint(), int8->fingerprint(),
                                              int8_all->fingerprint(), int4->fingerprint(),
                                              int4_64->fingerprint()};
  EXPECT_EQ(fingerprints.size(), 5U);
  // Of one expert, per layer: 3 * 64 * 128 elements and their scales.
  EXPECT_EQ(plain->expert_weight_bytes({2}), 4 * 3 * 64 * 128 * 2);
  EXPECT_EQ(int8->expert_weight_bytes({2}), 4 * (3 * 64 * 128 + (128 + 128 + 64) * 4));
  EXPECT_EQ(int4->expert_weight_bytes({2}), 4 * 3 * 64 * 128 / 32 * (16 + 2));
  EXPECT_EQ(int4_64->expert_weight_bytes({2}), 4 * 3 * 64 * 128 / 64 * (32 + 2));
  EXPECT_EQ(int8->attention_weights().lm_head.format(), MatrixFormat::kPlain);
}

TEST_F(CheckpointQuantizerTest, ShardsAndTheTransformersLayoutsStayWhatTheyAre) {
  for (const ExpertLayout layout : {ExpertLayout::kSeparate, ExpertLayout::kFused}) {
    json config = TinyTransformersConfig();
    config["hidden_size"] = 64;
    config["intermediate_size"] = 64;
    const bool fused = layout == ExpertLayout::kFused;
    const std::string source =
        WriteTinyCheckpoint(directory_, fused ? "fused" : "separate", config,
                            {.dtype = DType::kF32, .max_shard_bytes = 300'000, .layout = layout});
    for (const WeightQuantization& quantization : {kInt8All, kInt4All}) {
      const std::string out = Quantize(
          source, quantization, absl::StrCat("q", fused, static_cast<int>(quantization.format)));
      EXPECT_TRUE(fs::exists(out + "/model.safetensors.index.json"));
      ASSERT_OK_AND_ASSIGN(const auto got, Checkpoint::Open(out));
      ASSERT_OK_AND_ASSIGN(const auto want, Checkpoint::Open(source));
      for (const int32_t expert : {0, 7}) {
        ExpectNear(got->expert_weights(3, expert).w1, want->expert_weights(3, expert).w1);
        ExpectNear(got->expert_weights(3, expert).w2, want->expert_weights(3, expert).w2);
        ExpectNear(got->expert_weights(3, expert).w3, want->expert_weights(3, expert).w3);
      }
    }
  }
}

TEST_F(CheckpointQuantizerTest, OtherFilesAreCarriedOver) {
  const std::string source = Source();
  WriteTextFile(source + "/tokenizer.json", "{\"a\": 1}");
  WriteTextFile(source + "/notes.safetensors", "not ours");
  const std::string out = Quantize(source, kInt8Experts);
  EXPECT_EQ(ReadTextFile(out + "/tokenizer.json"), "{\"a\": 1}");
  EXPECT_FALSE(fs::exists(out + "/notes.safetensors"));
  json config = json::parse(ReadTextFile(out + "/config.json"));
  EXPECT_EQ(config["quantization_config"],
            json({{"quant_method", "m1"}, {"format", "int8"}, {"scope", "experts"}}));
  config.erase("quantization_config");
  EXPECT_EQ(config, json::parse(ReadTextFile(source + "/config.json")));
}

TEST_F(CheckpointQuantizerTest, SaysWhatItCannotDo) {
  const std::string source = Source();
  const std::string out = Quantize(source, kInt8Experts);
  const auto run = [&](const std::string& model, const std::string& to,
                       const WeightQuantization& quantization) {
    return QuantizeCheckpoint(
        {.model_dir = model, .out_dir = directory_.Join(to), .quantization = quantization});
  };
  EXPECT_THAT(run(source, "out", kInt8Experts),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("holds a checkpoint already")));
  EXPECT_THAT(run(out, "twice", kInt8Experts),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is int8-experts already")));
  const std::string narrow = WriteTinyCheckpoint(directory_, "narrow", TinyConfig());
  EXPECT_THAT(run(narrow, "n", kInt4All),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("w2.weight has rows of 24 elements, wanted a multiple of "
                                 "group_size 32")));
  EXPECT_THAT(run(directory_.Join("nowhere"), "n", kInt8All),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere")));
}

TEST_F(CheckpointQuantizerTest, LeavesNothingBehindWhenItIsStoppedOrFails) {
  const std::string source = Source();
  int num_calls = 0;
  QuantizeOptions options{.model_dir = source,
                          .out_dir = directory_.Join("stopped"),
                          .quantization = kInt8All,
                          .progress = [&](int64_t, int64_t) { return ++num_calls < 40; }};
  EXPECT_THAT(QuantizeCheckpoint(options),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("writing was stopped")));
  EXPECT_EQ(num_calls, 40);
  EXPECT_TRUE(fs::is_empty(directory_.Join("stopped")));
  int64_t last = 0;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_LE(done, total);
    last = total - done;
    return true;
  };
  ASSERT_OK(QuantizeCheckpoint(options));
  EXPECT_EQ(last, 0);

  FileImage image = FileImage::Read(source + "/model.safetensors");
  const size_t at = image.header[kW2]["data_offsets"][0].get<size_t>();
  image.data[at] = '\x80';  // infinity as bf16
  image.data[at + 1] = '\x7f';
  image.Write(source + "/model.safetensors");
  options.out_dir = directory_.Join("bad");
  EXPECT_THAT(QuantizeCheckpoint(options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr(absl::StrCat("tensor ", kW2, ": has inf at 0"))));
  EXPECT_TRUE(fs::is_empty(directory_.Join("bad")));
}

// What a hostile or damaged checkpoint is refused with.
class HostileQuantizedTest : public CheckpointQuantizerTest {
 protected:
  std::string Changed(const WeightQuantization& quantization,
                      const std::function<void(FileImage*)>& change) {
    const std::string name = absl::StrCat("h", ++num_made_);
    if (!fs::exists(directory_.Join("source"))) Source();
    const std::string path = Quantize(directory_.Join("source"), quantization, name);
    FileImage image = FileImage::Read(path + "/model.safetensors");
    change(&image);
    image.Write(path + "/model.safetensors");
    return path;
  }

  int num_made_ = 0;
};

TEST_F(HostileQuantizedTest, TensorsThatDoNotFitTheConfig) {
  const std::string scale = absl::StrCat(kW2, "_scale");
  const struct {
    WeightQuantization quantization;
    std::function<void(FileImage*)> change;
    std::string message;
  } cases[] = {
      {kInt8All,
       [&](FileImage* f) {
         f->header[scale + "x"] = f->header[scale];
         f->header.erase(scale);
       },
       absl::StrCat("tensor \"", scale, "\" is missing")},
      {kInt8All,
       [&](FileImage* f) {
         f->header[scale]["shape"] = {2, 32};
       },
       absl::StrCat("tensor \"", scale, "\" has shape [2, 32], config.json wants [64]")},
      {kInt8All, [&](FileImage* f) { f->header[scale]["dtype"] = "I32"; },
       absl::StrCat("tensor \"", scale, "\" is I32, wanted F32 by quantization_config")},
      {kInt8All, [&](FileImage* f) { f->header[kQkv]["dtype"] = "U8"; },
       absl::StrCat("tensor \"", kQkv, "\" is U8, wanted I8 by quantization_config")},
      {kInt8Experts,
       [&](FileImage* f) {
         f->header[kW2]["shape"] = {128, 64};
       },
       absl::StrCat("tensor \"", kW2, "\" has shape [128, 64], config.json wants [64, 128]")},
      {kInt4All,
       [&](FileImage* f) {
         f->header[kW2]["shape"] = {32, 128};
       },
       absl::StrCat("tensor \"", kW2, "\" has shape [32, 128], config.json wants [64, 64]")},
      {kInt4All,
       [&](FileImage* f) {
         f->header[scale]["shape"] = {128, 2};
       },
       absl::StrCat("tensor \"", scale, "\" has shape [128, 2], config.json wants [64, 4]")},
      {kInt8Experts, [&](FileImage* f) { f->Add(absl::StrCat(kQkv, "_scale"), 3); },
       absl::StrCat("tensor \"", kQkv, "_scale\" is unexpected")},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(Checkpoint::Open(Changed(c.quantization, c.change)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(c.message)));
  }
}

TEST_F(HostileQuantizedTest, ScalesThatAreNoNormalNumbersAboveZero) {
  const auto set = [](const std::string& name, float value) {
    return [=](FileImage* f) {
      const size_t at = f->header[name]["data_offsets"][0].get<size_t>();
      std::memcpy(f->data.data() + at + 4, &value, sizeof(value));
    };
  };
  for (const float value : {0.0F, -1.0F, 1e-40F, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    const std::string w2_scale = absl::StrCat(kW2, "_scale");
    ASSERT_OK_AND_ASSIGN(const auto checkpoint,
                         Checkpoint::Open(Changed(kInt8All, set(w2_scale, value))));
    EXPECT_THAT(checkpoint->PrefetchExperts({6, 7}),
                StatusIs(absl::StatusCode::kDataLoss,
                         HasSubstr(absl::StrCat("tensor \"", w2_scale, "\" has the scale ", value,
                                                " at 1"))));
    // Whoever does not host the expert does not mind.
    EXPECT_OK(checkpoint->PrefetchExperts({0, 6}));
    EXPECT_OK(checkpoint->PrefetchAttention());
    const std::string qkv_scale = absl::StrCat(kQkv, "_scale");
    ASSERT_OK_AND_ASSIGN(const auto other,
                         Checkpoint::Open(Changed(kInt4All, set(qkv_scale, value))));
    EXPECT_THAT(other->PrefetchAttention(),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(qkv_scale)));
  }
}

TEST_F(HostileQuantizedTest, AConfigThatClaimsAnotherFormat) {
  const std::string path = Quantize(Source(), kInt8All);
  json config = json::parse(ReadTextFile(path + "/config.json"));
  config["quantization_config"]["scope"] = "experts";
  WriteTextFile(path + "/config.json", config.dump());
  EXPECT_THAT(Checkpoint::Open(path),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("is I8, wanted BF16")));
  config["quantization_config"] = {
      {"quant_method", "m1"}, {"format", "int4"}, {"scope", "all"}, {"group_size", 64}};
  WriteTextFile(path + "/config.json", config.dump());
  EXPECT_THAT(Checkpoint::Open(path),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("is I8, wanted U8")));
  config.erase("quantization_config");
  WriteTextFile(path + "/config.json", config.dump());
  EXPECT_THAT(Checkpoint::Open(path), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("is I8")));
}

}  // namespace
}  // namespace m1
