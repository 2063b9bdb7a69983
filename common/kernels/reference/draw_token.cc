#include <algorithm>
#include <limits>
#include <vector>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/sampling_ops.h"

namespace m1 {
namespace {

struct WeighedToken {
  int32_t id;
  float logit;
  float weight;
};

bool Before(const WeighedToken& a, const WeighedToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Sums stay below 2^53 units, so they are exact.
double TotalWeight(const std::vector<WeighedToken>& tokens) {
  double total = 0.0;
  for (const WeighedToken& token : tokens) total += static_cast<double>(token.weight);
  return total;
}

// Adding makes the unit the last place of the sum, where it is not that of the weight already.
float RoundToUnit(float weight, float unit) {
  const float rounder = unit * 0x1p23f;
  return weight < rounder ? (weight + rounder) - rounder : weight;
}

std::vector<WeighedToken> Weigh(const std::vector<float>& logits, float temperature) {
  const float peak = *std::max_element(logits.begin(), logits.end()) / temperature;
  const float unit = WeightUnit(static_cast<int64_t>(logits.size()));
  std::vector<WeighedToken> tokens;
  for (const float logit : logits) {
    const float weight = ExactExp(logit / temperature - peak);
    tokens.push_back({static_cast<int32_t>(tokens.size()), logit, RoundToUnit(weight, unit)});
  }
  return tokens;
}

// `tokens` are in order, best first.
void Truncate(const TokenDraw& draw, std::vector<WeighedToken>& tokens) {
  if (draw.top_k > 0 && static_cast<size_t>(draw.top_k) < tokens.size()) {
    tokens.resize(static_cast<size_t>(draw.top_k));
  }
  if (draw.top_p < 1.0f) {
    const double wanted = static_cast<double>(draw.top_p) * TotalWeight(tokens);
    double sum = 0.0;
    size_t count = 0;
    do {
      sum += static_cast<double>(tokens[count++].weight);
    } while (sum < wanted);
    tokens.resize(count);
  }
  std::erase_if(tokens, [&](const WeighedToken& token) { return token.weight < draw.min_p; });
}

int32_t Invert(std::vector<WeighedToken>& tokens, double uniform) {
  std::sort(tokens.begin(), tokens.end(),
            [](const WeighedToken& a, const WeighedToken& b) { return a.id < b.id; });
  const double threshold = uniform * TotalWeight(tokens);
  double sum = 0.0;
  int32_t drawn = 0;
  for (const WeighedToken& token : tokens) {
    if (token.weight == 0.0f) continue;
    sum += static_cast<double>(token.weight);
    drawn = token.id;
    if (sum > threshold) break;  // the product may round up to the weight of all
  }
  return drawn;
}

}  // namespace

int32_t ReferenceDrawToken(std::span<const float> logits, const TokenDraw& draw) {
  std::vector<float> edited(logits.begin(), logits.end());
  for (const LogitEdit& edit : draw.edits) {
    float& logit = edited[static_cast<size_t>(edit.id)];
    logit = EditedLogit(logit, edit);
  }
  const auto largest = std::max_element(edited.begin(), edited.end());
  if (draw.temperature == 0.0f || *largest == -std::numeric_limits<float>::infinity()) {
    return static_cast<int32_t>(largest - edited.begin());
  }
  std::vector<WeighedToken> tokens = Weigh(edited, draw.temperature);
  std::sort(tokens.begin(), tokens.end(), Before);
  Truncate(draw, tokens);
  return Invert(tokens, draw.uniform);
}

}  // namespace m1
