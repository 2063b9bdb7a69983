// Texts that are not a config of this family: each is refused with a message that says why.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/model/config.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

using testing::HasSubstr;

struct TextCase {
  std::string text;
  std::string fragment;
};

TEST(HostileConfigTest, RefusesTextsThatAreNotAnObject) {
  const std::vector<TextCase> cases = {
      {"", "not valid JSON"},
      {" ", "not valid JSON"},
      {"{", "not valid JSON at byte 2"},
      {"}", "not valid JSON"},
      {"[]", "the document is an array of 0, wanted an object"},
      {"null", "the document is null"},
      {"7", "the document is 7"},
      {"\"minimax_m1\"", "the document is \"minimax_m1\""},
      {"{}", "model_type is missing"},
      {"{}{}", "not valid JSON"},
      {R"({"a": NaN})", "not valid JSON"},
      {R"({"a": Infinity})", "not valid JSON"},
      {R"({"a": 1e999})", "not valid JSON"},
      {R"({"a": 01})", "not valid JSON"},
      {R"({"a": +1})", "not valid JSON"},
      {R"({"a": 1,})", "not valid JSON"},
      {R"({'a': 1})", "not valid JSON"},
      {"{\"a\": \"\x80\"}", "not valid JSON"},
      {"{\"a\": \"\xed\xa0\x80\"}", "not valid JSON"},
      {std::string("{\"a\": 1\0}", 9), "not valid JSON"},
      {R"({"a": "\ud800"})", "not valid JSON"},
      {R"({"a": 1, "a": 1})", "key \"a\" stands twice"},
      {R"({"b": {"c": [{"d": 0, "d": 1}]}})", "key \"d\" stands twice"},
      {"{\"a\": " + std::string(31, '[') + std::string(31, ']') + "}", "model_type is missing"},
      {"{\"a\": " + std::string(32, '[') + std::string(32, ']') + "}", "deeper than 32 levels"},
      {"{\"a\": " + std::string(1'000'000, '['), "deeper than 32 levels"},
      {std::string(1'000'000, '{'), "not valid JSON"},
      {"{\"a\": [0" +
           [] {
             std::string zeros;
             for (int i = 0; i < 1'000'000; ++i) zeros += ",0";
             return zeros;
           }() +
           "]}",
       "more than 1000000 values"},
  };
  for (const TextCase& c : cases) {
    EXPECT_THAT(ParseModelConfig(c.text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.fragment)))
        << c.text.substr(0, 100);
  }
}

struct PatchCase {
  const char* patch;  // merged into the tiny config; null takes a key away
  const char* fragment;
};

void ExpectRefused(const nlohmann::json& base, const std::vector<PatchCase>& cases) {
  ASSERT_OK(ParseModelConfig(base.dump()));
  for (const PatchCase& c : cases) {
    nlohmann::json config = base;
    config.merge_patch(nlohmann::json::parse(c.patch));
    EXPECT_THAT(ParseModelConfig(config.dump()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.fragment)))
        << c.patch;
  }
}

TEST(HostileConfigTest, NamesKeyValueAndLimit) {
  ExpectRefused(
      TinyConfig(),
      {
          {R"({"model_type": null})", "model_type is missing"},
          {R"({"model_type": 1})", "model_type is 1, wanted minimax_m1, MiniMaxM1"},
          {R"({"model_type": "llama"})", "model_type is \"llama\", wanted minimax_m1"},
          {R"({"model_type": "MINIMAX_M1"})", "model_type is \"MINIMAX_M1\""},
          {R"({"model_type": "a\nb\u0000"})", "model_type is \"a\\nb\\x00\""},
          {R"({"num_hidden_layers": null})", "num_hidden_layers is missing"},
          {R"({"num_hidden_layers": 0})",
           "num_hidden_layers is 0, wanted an integer from 1 to 4096"},
          {R"({"num_hidden_layers": -4})", "num_hidden_layers is -4"},
          {R"({"num_hidden_layers": 4.0})", "num_hidden_layers is 4.0, wanted an integer"},
          {R"({"num_hidden_layers": "4"})", "num_hidden_layers is \"4\""},
          {R"({"num_hidden_layers": [4]})", "num_hidden_layers is an array of 1"},
          {R"({"num_hidden_layers": true})", "num_hidden_layers is true"},
          {R"({"num_hidden_layers": 1000000000})", "num_hidden_layers is 1000000000"},
          {R"({"num_hidden_layers": 18446744073709551615})", "is 18446744073709551615, wanted"},
          {R"({"num_hidden_layers": 9223372036854775808})", "is 9223372036854775808, wanted"},
          {R"({"num_hidden_layers": 99999999999999999999999})",
           "num_hidden_layers is 9.999999999999999e+22"},
          {R"({"num_hidden_layers": 3})",
           "attn_type_list is an array of 4, wanted an array of "
           "num_hidden_layers = 3"},
          {R"({"hidden_size": null})", "hidden_size is missing"},
          {R"({"hidden_size": 0})", "hidden_size is 0"},
          {R"({"hidden_size": 2147483648})", "hidden_size is 2147483648, wanted an integer from 1"},
          {R"({"num_attention_heads": null})", "num_attention_heads is missing"},
          {R"({"num_attention_heads": 0})", "num_attention_heads is 0"},
          {R"({"num_attention_heads": 1048576})", "num_attention_heads * head_dim is 16777216"},
          {R"({"num_key_value_heads": null})", "num_key_value_heads is missing"},
          {R"({"num_key_value_heads": 3})",
           "num_key_value_heads is 3, wanted a divisor of "
           "num_attention_heads 4"},
          {R"({"num_key_value_heads": 8})",
           "num_key_value_heads is 8, wanted an integer from 1 to 4"},
          {R"({"head_dim": 0})", "head_dim is 0"},
          {R"({"head_dim": null, "hidden_size": 33})", "head_dim is missing"},
          {R"({"head_dim": 1048577})", "head_dim is 1048577"},
          {R"({"rotary_dim": 0})", "rotary_dim is 0"},
          {R"({"rotary_dim": 7})", "rotary_dim is 7, wanted an even number"},
          {R"({"rotary_dim": 18})", "rotary_dim is 18, wanted an integer from 2 to 16"},
          {R"({"rotary_dim": null, "partial_rotary_factor": 0.01})",
           "rotary_dim is 0, wanted an even"},
          {R"({"partial_rotary_factor": 0})",
           "partial_rotary_factor is 0, wanted a number in (0, 1]"},
          {R"({"partial_rotary_factor": 1.5})", "partial_rotary_factor is 1.5"},
          {R"({"rope_theta": 0})", "rope_theta is 0, wanted a number in (0, 1e+30]"},
          {R"({"rope_theta": -1e4})", "rope_theta is -10000.0"},
          {R"({"rope_theta": 1e300})", "rope_theta is 1e+300"},
          {R"({"rope_theta": "1e4"})", "rope_theta is \"1e4\""},
          {R"({"rope_theta": false})", "rope_theta is false"},
          {R"({"rope_scaling": {"type": "yarn", "factor": 4}})", "rope_scaling.type is \"yarn\""},
          {R"({"rope_scaling": 4})", "rope_scaling is 4, wanted an object"},
          {R"({"num_local_experts": null})", "num_local_experts is missing"},
          {R"({"num_local_experts": 0})", "num_local_experts is 0"},
          {R"({"num_local_experts": 5000})", "num_local_experts is 5000"},
          {R"({"num_experts_per_tok": 0})", "num_experts_per_tok is 0"},
          {R"({"num_experts_per_tok": 9})",
           "num_experts_per_tok is 9, wanted an integer from 1 to 8"},
          {R"({"intermediate_size": null})", "intermediate_size is missing"},
          {R"({"intermediate_size": -1})", "intermediate_size is -1"},
          {R"({"shared_intermediate_size": -1})", "shared_intermediate_size is -1"},
          {R"({"shared_moe_mode": "softmax"})",
           "shared_moe_mode is \"softmax\", wanted \"sigmoid\""},
          {R"({"vocab_size": null})", "vocab_size is missing"},
          {R"({"vocab_size": 0})", "vocab_size is 0"},
          {R"({"vocab_size": 4294967296})", "vocab_size is 4294967296"},
          {R"({"max_position_embeddings": 0})", "max_position_embeddings is 0"},
          {R"({"max_position_embeddings": 2147483648})", "max_position_embeddings is 2147483648"},
          {R"({"rms_norm_eps": 0})", "rms_norm_eps is 0, wanted a number in (0, 1]"},
          {R"({"rms_norm_eps": -1e-5})", "rms_norm_eps is -1e-05"},
          {R"({"rms_norm_eps": "tiny"})", "rms_norm_eps is \"tiny\""},
          {R"({"postnorm": 1})", "postnorm is 1, wanted true or false"},
          {R"({"tie_word_embeddings": "yes"})", "tie_word_embeddings is \"yes\""},
          {R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\", wanted \"silu\""},
          {R"({"sliding_window": 4096})", "sliding_window is 4096, wanted null"},
          {R"({"quantization_config": {"bits": 4}})", "quantization_config.quant_method is null"},
          {R"({"quantization_config": {"quant_method": "gptq", "format": "int8"}})",
           "quantization_config.quant_method is \"gptq\", wanted m1"},
          {R"({"quantization_config": {"quant_method": "m1", "format": "int3"}})",
           "quantization_config.format is \"int3\", wanted int8 or int4"},
          {R"({"quantization_config": {"quant_method": "m1", "format": "int8"}})",
           "quantization_config.scope is null, wanted experts or all"},
          {R"({"quantization_config": {"quant_method": "m1", "format": "int4", "scope": "all"}})",
           "quantization_config.group_size is null, wanted 32 or 64"},
          {R"({"quantization_config": {"quant_method": "m1", "format": "int4", "scope": "all",
               "group_size": 48}})",
           "quantization_config.group_size is 48, wanted 32 or 64"},
          {R"({"quantization_config": "int8"})", "quantization_config is \"int8\""},
          {R"({"attn_type_list": null})", "attn_type_list is missing"},
          {R"({"attn_type_list": []})", "attn_type_list is an array of 0"},
          {R"({"attn_type_list": "0101"})", "attn_type_list is \"0101\""},
          {R"({"attn_type_list": [0, 1, 2, 1]})", "attn_type_list[2] is 2, wanted 0, 1"},
          {R"({"attn_type_list": [0, 1, 0, true]})", "attn_type_list[3] is true"},
          {R"({"layer_types": ["full_attention", "full_attention", "full_attention",
                               "full_attention"]})",
           "layer_types and attn_type_list disagree"},
          {R"({"layernorm_mlp_alpha": "1"})", "layernorm_mlp_alpha is \"1\""},
          {R"({"layernorm_linear_attention_beta": 1e7})",
           "layernorm_linear_attention_beta is 1000000"},
          {R"({"layernorm_full_attention_alpha": [1]})",
           "layernorm_full_attention_alpha is an array"},
          {R"({"torch_dtype": "float16"})", "torch_dtype is \"float16\", wanted \"bfloat16\""},
          {R"({"torch_dtype": 16})", "torch_dtype is 16"},
          {R"({"dtype": "int8"})", "dtype is \"int8\""},
          {R"({"eos_token_id": -1})", "eos_token_id is -1, wanted an integer from 0 to 63"},
          {R"({"eos_token_id": 64})", "eos_token_id is 64"},
          {R"({"eos_token_id": [1, "2"]})", "eos_token_id is \"2\""},
          {R"({"eos_token_id": [1, null]})", "eos_token_id is missing"},
          {R"({"eos_token_id": {}})", "eos_token_id is an object"},
      });
}

TEST(HostileConfigTest, RefusesWhatTheTransformersFormatCannotMean) {
  ExpectRefused(
      TinyTransformersConfig(),
      {
          {R"({"layer_types": null})", "layer_types is missing"},
          {R"({"layer_types": ["linear_attention"]})", "layer_types is an array of 1"},
          {R"({"layer_types": ["linear_attention", "x", "full_attention", "full_attention"]})",
           "layer_types[1] is \"x\""},
          {R"({"postnorm": false})", "model_type minimax is always post-norm"},
          {R"({"shared_intermediate_size": 8})", "model_type minimax has no shared expert"},
          {R"({"rope_parameters": 1})", "rope_parameters is 1, wanted an object"},
          {R"({"rope_parameters": {"rope_type": "linear"}})",
           "rope_parameters.rope_type is \"linear\""},
          {R"({"rope_parameters": {"rope_theta": -1}})", "rope_parameters: rope_theta is -1"},
          {R"({"rope_parameters": {"rope_theta": 2e4}})",
           "rope_theta is 10000, but "
           "rope_parameters.rope_theta is 20000"},
          {R"({"rope_parameters": {"partial_rotary_factor": 2}})",
           "rope_parameters: partial_rotary_factor is 2"},
          {R"({"full_attn_alpha_factor": "a"})", "full_attn_alpha_factor is \"a\""},
          {R"({"linear_attn_beta_factor": -1e9})", "linear_attn_beta_factor is -1000000000"},
      });
}

TEST(HostileConfigTest, RefusesFilesThatCannotBeRead) {
  const TempDirectory directory;
  EXPECT_THAT(LoadModelConfig(directory.Join("absent")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent/config.json: No such file")));
  std::filesystem::create_directory(directory.Join("config.json"));
  EXPECT_THAT(LoadModelConfig(directory.path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("config.json: not a regular file")));
  std::filesystem::remove(directory.Join("config.json"));
  std::filesystem::create_symlink("/etc/hostname", directory.Join("config.json"));
  EXPECT_THAT(LoadModelConfig(directory.path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a link that leads out")));
  std::filesystem::remove(directory.Join("config.json"));
  WriteTextFile(directory.Join("config.json"), std::string((16 << 20) + 1, ' '));
  EXPECT_THAT(LoadModelConfig(directory.path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("16777217 bytes, limit 16777216")));
  WriteTextFile(directory.Join("config.json"), TinyConfig().dump());
  WriteTextFile(directory.Join("generation_config.json"), "{");
  EXPECT_THAT(LoadModelConfig(directory.path()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("generation_config.json: not valid JSON")));
}

}  // namespace
}  // namespace m1
