// config.json of any bytes: no crash, and what is accepted is within the limits that others rely
// on.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"

#include "common/model/config.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<m1::ModelConfig> config = m1::ParseModelConfig(text);
  if (!config.ok()) {
    Require(config.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  Require(config->layer_kinds.size() == static_cast<size_t>(config->num_layers));
  Require(config->num_heads % config->num_kv_heads == 0);
  Require(config->rotary_dim >= 2 && config->rotary_dim % 2 == 0 &&
          config->rotary_dim <= config->head_dim);
  Require(config->num_experts_per_token <= config->num_experts);
  Require(!m1::DescribeModelConfig(*config).empty());
  const std::vector<float> decays = m1::LightningDecays(*config, config->num_layers - 1);
  Require(decays.size() == static_cast<size_t>(config->num_heads));
  for (const float decay : decays) Require(std::isfinite(decay) && decay >= 0);
  Require(m1::RotaryInverseFrequencies(*config).size() ==
          static_cast<size_t>(config->rotary_dim) / 2);
  return 0;
}
