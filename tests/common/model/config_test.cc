#include "common/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::FloatEq;
using testing::HasSubstr;

// FNV-1a over the floats' bytes, as the test's figures were computed outside this program.
uint64_t Hash(const std::vector<float>& values) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const float value : values) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ ((std::bit_cast<uint32_t>(value) >> shift) & 0xffU)) * 0x100000001b3U;
    }
  }
  return hash;
}

std::vector<float> AllDecays(const ModelConfig& config) {
  std::vector<float> all;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const std::vector<float> decays = LightningDecays(config, layer);
    all.insert(all.end(), decays.begin(), decays.end());
  }
  return all;
}

TEST(ConfigTest, ReadsMiniMaxM1) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig("tests/golden/minimax-m1"));
  EXPECT_EQ(c.format, CheckpointFormat::kOriginal);
  EXPECT_EQ(c.num_layers, 80);
  EXPECT_EQ(c.num_lightning_layers(), 70);
  EXPECT_EQ(c.num_softmax_layers(), 10);
  EXPECT_EQ(c.layer_kinds[7], LayerKind::kSoftmax);
  EXPECT_EQ(c.layer_kinds[79], LayerKind::kSoftmax);
  EXPECT_EQ(c.hidden_size, 6144);
  EXPECT_EQ(c.num_heads, 64);
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rotary_dim, 64);
  EXPECT_EQ(c.rope_theta, 1e7);
  EXPECT_EQ(c.num_experts, 32);
  EXPECT_EQ(c.num_experts_per_token, 2);
  EXPECT_EQ(c.expert_intermediate_size, 9216);
  EXPECT_EQ(c.shared_intermediate_size, 0);
  EXPECT_EQ(c.vocab_size, 200064);
  EXPECT_EQ(c.max_context_tokens, 10240000);
  EXPECT_EQ(c.rms_norm_eps, 1e-5F);
  EXPECT_TRUE(c.postnorm);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.lightning_scale.alpha, 3.5565588200778455F);
  EXPECT_EQ(c.softmax_scale.alpha, 3.5565588200778455F);
  EXPECT_EQ(c.mlp_scale.beta, 1.0F);
  EXPECT_THAT(c.eos_token_ids, ElementsAre());
}

TEST(ConfigTest, ReadsTheOriginalFormatWithSharedExpert) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig("tests/golden/shared-fp32"));
  EXPECT_EQ(c.shared_intermediate_size, 48);
  EXPECT_FALSE(c.postnorm);
  EXPECT_EQ(c.hidden_size, 80);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_EQ(c.lightning_scale.alpha, 1.3F);
  EXPECT_EQ(c.lightning_scale.beta, 0.8F);
  EXPECT_EQ(c.softmax_scale.alpha, 0.9F);
  EXPECT_EQ(c.softmax_scale.beta, 1.2F);
  EXPECT_EQ(c.mlp_scale.alpha, 1.1F);
  EXPECT_EQ(c.mlp_scale.beta, 0.7F);
  EXPECT_EQ(&c.attention_scale(1), &c.softmax_scale);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(509));
}

TEST(ConfigTest, ReadsBothSpellingsOfTheTransformersFormat) {
  for (const char* name : {"tests/golden/hf-fp32", "tests/golden/hf-mixtral-names-fp32"}) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig(name));
    EXPECT_EQ(c.format, CheckpointFormat::kTransformers);
    EXPECT_TRUE(c.postnorm);
    EXPECT_EQ(c.rope_theta, 1e6);
    EXPECT_EQ(c.rotary_dim, 16);
    EXPECT_EQ(c.weights_dtype, DType::kF32);
    EXPECT_EQ(c.num_softmax_layers(), 2);
    EXPECT_EQ(c.layer_kinds[2], LayerKind::kSoftmax);
    EXPECT_EQ(c.lightning_scale.alpha, 1.6F);
    EXPECT_EQ(c.softmax_scale.beta, 1.1F);
    EXPECT_EQ(c.mlp_scale.alpha, 1.4F);
  }
}

TEST(ConfigTest, ReadsTheOtherCheckpointsOfTheTree) {
  for (const char* name : {"tests/golden/mini-fp32", "tests/golden/mini-bf16"}) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig(name));
    EXPECT_EQ(c.num_layers, 8);
    EXPECT_EQ(c.rotary_dim, 8);
  }
  ASSERT_OK_AND_ASSIGN(const ModelConfig tiny, LoadModelConfig("models/tiny"));
  EXPECT_EQ(tiny.weights_dtype, DType::kBf16);
  EXPECT_EQ(tiny.num_kv_heads, 2);
  ASSERT_OK_AND_ASSIGN(const ModelConfig bench, LoadModelConfig("models/bench"));
  EXPECT_EQ(bench.num_softmax_layers(), 2);
}

TEST(ConfigTest, AcceptsEverySpellingOfTheModelType) {
  for (const char* type : {"minimax_m1", "MiniMaxM1", "minimax_text_01", "MiniMaxText01"}) {
    nlohmann::json config = TinyConfig();
    config["model_type"] = type;
    ASSERT_OK_AND_ASSIGN(const ModelConfig c, ParseModelConfig(config.dump()));
    EXPECT_EQ(c.format, CheckpointFormat::kOriginal);
    EXPECT_EQ(c.model_type, type);
  }
}

TEST(ConfigTest, FillsInWhatTheOriginalFormatMayLeaveOut) {
  nlohmann::json config = TinyConfig();
  for (const char* key :
       {"postnorm", "rotary_dim", "head_dim", "rope_theta", "hidden_act", "num_experts_per_tok",
        "max_position_embeddings", "rms_norm_eps", "eos_token_id"}) {
    config.erase(key);
  }
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, ParseModelConfig(config.dump()));
  EXPECT_FALSE(c.postnorm);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.rotary_dim, 8);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.num_experts_per_token, 2);
  EXPECT_EQ(c.max_context_tokens, 131072);
  EXPECT_EQ(c.rms_norm_eps, 1e-5F);
  EXPECT_EQ(c.lightning_scale.alpha, 1.0F);
  EXPECT_EQ(c.mlp_scale.beta, 1.0F);
  EXPECT_EQ(c.weights_dtype, DType::kF32);
}

TEST(ConfigTest, HonoursRotaryKeysOfTheTransformersFormat) {
  nlohmann::json config = TinyTransformersConfig();
  EXPECT_EQ(ParseModelConfig(config.dump())->rotary_dim, 16);
  config["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(ParseModelConfig(config.dump())->rotary_dim, 8);
  config["rotary_dim"] = 4;
  EXPECT_EQ(ParseModelConfig(config.dump())->rotary_dim, 4);
  config = TinyTransformersConfig();
  config.erase("rope_theta");
  config["rope_parameters"] = {
      {"rope_theta", 5e5}, {"rope_type", "default"}, {"partial_rotary_factor", 0.25}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, ParseModelConfig(config.dump()));
  EXPECT_EQ(c.rope_theta, 5e5);
  EXPECT_EQ(c.rotary_dim, 4);
}

TEST(ConfigTest, CollectsEosIdsOfBothFiles) {
  const TempDirectory directory;
  nlohmann::json config = TinyConfig();
  config["eos_token_id"] = {9, 3};
  WriteTextFile(directory.Join("config.json"), config.dump());
  WriteTextFile(directory.Join("generation_config.json"), R"({"eos_token_id": [3, 5]})");
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig(directory.path()));
  EXPECT_THAT(c.eos_token_ids, ElementsAre(3, 5, 9));
  WriteTextFile(directory.Join("generation_config.json"), R"({"eos_token_id": 64})");
  EXPECT_THAT(LoadModelConfig(directory.path()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("generation_config.json: eos_token_id is 64, wanted an integer "
                                 "from 0 to 63")));
}

// The values are those of model.md's formulas, computed outside this program.
TEST(ConfigTest, DecaysOfM1ArePinned) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig("tests/golden/minimax-m1"));
  const std::vector<float> first = LightningDecays(c, 0);
  EXPECT_EQ(first[0], 0.9170132279396057F);
  EXPECT_EQ(first[63], 0.003906289115548134F);
  EXPECT_EQ(LightningDecays(c, 79)[63], 3.906249901319825e-08F);
  EXPECT_EQ(Hash(AllDecays(c)), 0x7415c280ca4d2e3dU);
}

TEST(ConfigTest, DecaysOfSixHeadsFollowTheFormat) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig original, LoadModelConfig("tests/golden/shared-fp32"));
  EXPECT_THAT(LightningDecays(original, 1),
              ElementsAre(0.16666916012763977F, 0.04166729003190994F, 0.010416822507977486F,
                          0.0026042056269943714F, 0.33333832025527954F, 0.08333458006381989F));
  EXPECT_EQ(Hash(AllDecays(original)), 0x428bec4b82a073fbU);
  ASSERT_OK_AND_ASSIGN(const ModelConfig transformers, LoadModelConfig("tests/golden/hf-fp32"));
  EXPECT_EQ(LightningDecays(transformers, 3)[0], 0.09921728074550629F);
  EXPECT_EQ(Hash(AllDecays(transformers)), 0x881a7ba027dcd82bU);
}

TEST(ConfigTest, DecayOfASingleLayerHasFactorOne) {
  ModelConfig c;
  c.num_layers = 1;
  c.num_heads = 1;
  EXPECT_THAT(LightningDecays(c, 0), ElementsAre(FloatEq(0.00390625F * 1.00001F)));
}

TEST(ConfigTest, RotaryFrequenciesOfM1ArePinned) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, LoadModelConfig("tests/golden/minimax-m1"));
  const std::vector<float> frequencies = RotaryInverseFrequencies(c);
  ASSERT_EQ(frequencies.size(), 32U);
  EXPECT_EQ(frequencies[0], 1.0F);
  EXPECT_EQ(frequencies[1], 0.6042963862419128F);
  EXPECT_EQ(frequencies[31], 1.6548170833630138e-07F);
  EXPECT_EQ(Hash(frequencies), 0xbff4534dd919dfc8U);
}

TEST(ConfigTest, DescriptionTellsConfigsApart) {
  nlohmann::json config = TinyConfig();
  const std::string first = DescribeModelConfig(*ParseModelConfig(config.dump()));
  config["transformers_version"] = "4.45.2";
  EXPECT_EQ(DescribeModelConfig(*ParseModelConfig(config.dump())), first);
  config["layernorm_mlp_alpha"] = 1.0000001;
  EXPECT_NE(DescribeModelConfig(*ParseModelConfig(config.dump())), first);
}

}  // namespace
}  // namespace m1
