#include "common/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

class CheckpointTest : public testing::TestWithParam<const char*> {};

TEST_P(CheckpointTest, OpensAndBindsEveryTensor) {
  ASSERT_OK_AND_ASSIGN(const auto checkpoint, Checkpoint::Open(GetParam()));
  const ModelConfig& config = checkpoint->config();
  const AttentionWeights weights = checkpoint->attention_weights();
  EXPECT_EQ(weights.embedding.shape(), (Shape{config.vocab_size, config.hidden_size}));
  EXPECT_EQ(weights.lm_head.shape(), (Shape{config.vocab_size, config.hidden_size}));
  ASSERT_EQ(weights.layers.size(), static_cast<size_t>(config.num_layers));
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const AttentionLayerWeights& w = weights.layers[static_cast<size_t>(layer)];
    const bool lightning = config.layer_kinds[static_cast<size_t>(layer)] == LayerKind::kLightning;
    EXPECT_EQ(w.lightning.has_value(), lightning);
    EXPECT_EQ(w.softmax.has_value(), !lightning);
    EXPECT_EQ(w.shared_mlp.has_value(), config.shared_intermediate_size > 0);
    EXPECT_EQ(w.gate.shape(), (Shape{config.num_experts, config.hidden_size}));
    EXPECT_FALSE(w.input_norm.empty());
    EXPECT_FALSE(w.post_attention_norm.empty());
    for (int32_t expert = 0; expert < config.num_experts; ++expert) {
      const ExpertWeights e = checkpoint->expert_weights(layer, expert);
      const Shape up{config.expert_intermediate_size, config.hidden_size};
      EXPECT_EQ(e.w1.shape(), up);
      EXPECT_EQ(e.w3.shape(), up);
      EXPECT_EQ(e.w2.shape(), (Shape{config.hidden_size, config.expert_intermediate_size}));
    }
  }
  EXPECT_EQ(checkpoint->fingerprint().size(), 64U);
}

INSTANTIATE_TEST_SUITE_P(Golden, CheckpointTest,
                         testing::Values("tests/golden/mini-fp32", "tests/golden/mini-bf16",
                                         "tests/golden/shared-fp32", "tests/golden/hf-fp32",
                                         "tests/golden/hf-mixtral-names-fp32", "models/tiny"));

// One element, widened.
float At(ConstTensorView view, int64_t index) {
  return view.dtype() == DType::kF32 ? view.data_as<float>()[index]
                                     : Bf16ToFloat(view.data_as<Bf16>()[index]);
}

bool SameBytes(ConstTensorView a, ConstTensorView b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.num_bytes())) == 0;
}

// The figures were read from the files by another program.
TEST(CheckpointValuesTest, ViewsShowTheFilesNumbers) {
  ASSERT_OK_AND_ASSIGN(const auto fp32, Checkpoint::Open("tests/golden/mini-fp32"));
  EXPECT_EQ(fp32->weight_format(), "fp32");
  EXPECT_EQ(At(fp32->attention_weights().embedding, 0), -0.6027625203132629F);
  EXPECT_EQ(At(fp32->attention_weights().lm_head.values, 511 * 64 + 63), 0.2317275106906891F);
  EXPECT_EQ(At(fp32->attention_weights().layers[7].softmax->q_proj.values, 65),
            0.07554588466882706F);
  EXPECT_EQ(At(fp32->expert_weights(7, 31).w2.values, 2047), 0.23935550451278687F);

  ASSERT_OK_AND_ASSIGN(const auto bf16, Checkpoint::Open("tests/golden/mini-bf16"));
  EXPECT_EQ(bf16->weight_format(), "bf16");
  // Its config.json has no torch_dtype.
  EXPECT_EQ(bf16->config().weights_dtype, DType::kBf16);
  const AttentionWeights weights = bf16->attention_weights();
  EXPECT_EQ(At(weights.embedding, 1), -1.078125F);
  EXPECT_EQ(At(weights.layers[4].lightning->qkv_proj.values, 100), -0.00775146484375F);
  EXPECT_EQ(weights.layers[5].gate.dtype(), DType::kF32);
  EXPECT_EQ(At(weights.layers[5].gate, 3), -0.1884000599384308F);
  EXPECT_EQ(At(bf16->expert_weights(7, 31).w3.values, 2047), 0.16015625F);

  ASSERT_OK_AND_ASSIGN(const auto shared, Checkpoint::Open("tests/golden/shared-fp32"));
  const AttentionWeights with_shared = shared->attention_weights();
  EXPECT_EQ(At(with_shared.layers[3].shared_mlp->coefficient, 79), -0.05239928513765335F);
  EXPECT_EQ(At(with_shared.layers[2].shared_mlp->down_proj.values, 48), -0.4073807895183563F);

  ASSERT_OK_AND_ASSIGN(const auto fused, Checkpoint::Open("tests/golden/hf-fp32"));
  EXPECT_EQ(At(fused->expert_weights(4, 5).w3.values, 0), 0.15146079659461975F);
  EXPECT_EQ(At(fused->expert_weights(4, 5).w2.values, 0), 0.024064501747488976F);
}

TEST(CheckpointValuesTest, FusedAndSeparateNamesGiveTheSameWeights) {
  ASSERT_OK_AND_ASSIGN(const auto fused, Checkpoint::Open("tests/golden/hf-fp32"));
  ASSERT_OK_AND_ASSIGN(const auto separate, Checkpoint::Open("tests/golden/hf-mixtral-names-fp32"));
  EXPECT_NE(fused->fingerprint(), separate->fingerprint());
  const AttentionWeights a = fused->attention_weights();
  const AttentionWeights b = separate->attention_weights();
  EXPECT_TRUE(SameBytes(a.embedding, b.embedding));
  for (int32_t layer = 0; layer < fused->config().num_layers; ++layer) {
    EXPECT_TRUE(SameBytes(a.layers[static_cast<size_t>(layer)].gate,
                          b.layers[static_cast<size_t>(layer)].gate));
    for (int32_t expert = 0; expert < fused->config().num_experts; ++expert) {
      const ExpertWeights x = fused->expert_weights(layer, expert);
      const ExpertWeights y = separate->expert_weights(layer, expert);
      EXPECT_TRUE(SameBytes(x.w1.values, y.w1.values) && SameBytes(x.w2.values, y.w2.values) &&
                  SameBytes(x.w3.values, y.w3.values));
    }
  }
}

TEST(CheckpointValuesTest, CountsTheBytesOfEachRole) {
  ASSERT_OK_AND_ASSIGN(const auto tiny, Checkpoint::Open("models/tiny"));
  EXPECT_EQ(tiny->attention_weight_bytes(), 1578752);
  std::vector<int32_t> all;
  for (int32_t expert = 0; expert < 32; ++expert) all.push_back(expert);
  EXPECT_EQ(tiny->expert_weight_bytes(all), 6291456);
  EXPECT_EQ(tiny->expert_weight_bytes({0, 31}), 6291456 / 16);
  ASSERT_OK_AND_ASSIGN(const auto fused, Checkpoint::Open("tests/golden/hf-fp32"));
  EXPECT_EQ(fused->attention_weight_bytes(), 776064);  // without the decay tables
  EXPECT_EQ(fused->expert_weight_bytes({3}), 1474560 / 8);
}

}  // namespace
}  // namespace m1
