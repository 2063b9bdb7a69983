// What a forward pass of a model has to read and to multiply at least, from its config.json: the
// bound that decode and prefill are measured against.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/config.h"

namespace m1 {

// Rows that go through the model together.
struct ForwardRows {
  int64_t num_sequences = 1;
  int64_t rows_each = 1;       // 1: decode; a whole prompt: prefill
  int64_t context_each = 0;    // tokens before these rows
  int64_t head_rows_each = 1;  // rows that need logits
};

struct CostPart {
  std::string name;
  std::string formula;    // of the bytes, in the config's words
  double bytes = 0;       // read from memory, and states written
  double pair_flops = 0;  // products of bf16 pairs
  double fp32_flops = 0;  // products of fp32
};

// Experts that `rows` rows meet if each chooses `per_token` of `num_experts`, all equally likely,
// on its own: E * (1 - (1 - k / E) ^ rows).
double ExpectedExperts(int64_t num_experts, int64_t per_token, int64_t rows);

// Parts: attention weights, experts, gates, head, states, KV. Weights are read once for all rows.
// Weights are as config.quantization says, or of config.weights_dtype, as rows are; gates and states
// are fp32. Integers count as half a bf16 product, which is what VNNI makes of them.
std::vector<CostPart> ForwardCost(const ModelConfig& config, const ForwardRows& rows);

CostPart TotalOf(const std::vector<CostPart>& parts);

// The larger of what reading and what multiplying takes.
double BoundSeconds(const CostPart& cost, double bytes_per_s, double pair_flops_per_s,
                    double fp32_flops_per_s);

}  // namespace m1
