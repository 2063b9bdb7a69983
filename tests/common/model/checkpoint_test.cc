#include "common/model/checkpoint.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace m1
