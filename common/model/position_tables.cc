// The tables that depend on a position: decay rates of lightning heads, rotary frequencies.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/model/config.h"

namespace m1 {
namespace {

// The slopes of `num_heads` heads, before the layer factor, in double.
// Source: MiniMax's _build_slope_tensor (ALiBi's rule); transformers uses the plain power for every
// n.
std::vector<double> Slopes(int32_t num_heads, CheckpointFormat format) {
  const auto plain = [](int32_t n) {
    std::vector<double> slopes;
    for (int32_t j = 0; j < n; ++j) slopes.push_back(std::exp2(-8.0 * (j + 1) / n));
    return slopes;
  };
  const bool power_of_two = (num_heads & (num_heads - 1)) == 0;
  if (power_of_two || format == CheckpointFormat::kTransformers) return plain(num_heads);
  int32_t closest = 1;
  while (closest * 2 < num_heads) closest *= 2;
  std::vector<double> slopes = plain(closest);
  const std::vector<double> finer = plain(2 * closest);
  for (size_t j = 0; slopes.size() < static_cast<size_t>(num_heads); j += 2) {
    slopes.push_back(finer[j]);
  }
  return slopes;
}

}  // namespace

std::vector<float> LightningDecays(const ModelConfig& config, int32_t layer) {
  const double last = config.num_layers - 1;
  double factor = 1.0 + 1e-5;
  if (config.format == CheckpointFormat::kTransformers) {
    factor = 1.0 - layer / (last + 1e-5) + 1e-5;
  } else if (config.num_layers > 1) {
    factor = 1.0 - layer / last + 1e-5;
  }
  std::vector<float> decays;
  for (const double slope : Slopes(config.num_heads, config.format)) {
    decays.push_back(static_cast<float>(slope * factor));
  }
  return decays;
}

std::vector<float> RotaryInverseFrequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  for (int32_t i = 0; i < config.rotary_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(config.rotary_dim);
    const auto power =
        static_cast<float>(std::pow(config.rope_theta, static_cast<double>(exponent)));
    frequencies.push_back(1.0F / power);
  }
  return frequencies;
}

}  // namespace m1
