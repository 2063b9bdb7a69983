#include "tools/bench/model_cost.h"

#include <algorithm>
#include <cmath>

#include "common/kernels/operands.h"

namespace m1 {
namespace {

// What the checkpoint keeps the weights of a part as.
struct WeightKind {
  DType dtype = DType::kBf16;
  MatrixFormat format = MatrixFormat::kPlain;
  double group_size = 0;  // int4

  // `row` elements share one fp32 scale with int8.
  double BytesPerElement(double row) const {
    if (format == MatrixFormat::kInt8) return 1 + 4 / row;
    if (format == MatrixFormat::kInt4) return 0.5 + 2 / group_size;
    return static_cast<double>(DTypeBytes(dtype));
  }
  // Integers are multiplied at twice the rate of bf16 pairs where there is an instruction for it.
  void AddProducts(double flops, CostPart* part) const {
    if (format != MatrixFormat::kPlain) {
      part->pair_flops += flops / 2;
    } else {
      (dtype == DType::kBf16 ? part->pair_flops : part->fp32_flops) += flops;
    }
  }
};

// Products of weights by rows: a multiply and an add each. `row`: elements of a matrix's row.
CostPart Weights(std::string name, std::string formula, double elements, double rows, double row,
                 const WeightKind& kind) {
  CostPart part{std::move(name), std::move(formula), elements * kind.BytesPerElement(row)};
  kind.AddProducts(2 * elements * rows, &part);
  return part;
}

WeightKind KindOf(const ModelConfig& config, bool of_experts) {
  const WeightQuantization& quantization = config.quantization;
  if (!of_experts && !quantization.everything) return {config.weights_dtype};
  return {config.weights_dtype, quantization.format, static_cast<double>(quantization.group_size)};
}

}  // namespace

double ExpectedExperts(int64_t num_experts, int64_t per_token, int64_t rows) {
  const auto all = static_cast<double>(num_experts);
  const double missed = 1.0 - static_cast<double>(per_token) / all;
  return all * (1.0 - std::pow(missed, static_cast<double>(rows)));
}

std::vector<CostPart> ForwardCost(const ModelConfig& config, const ForwardRows& batch) {
  const auto sequences = static_cast<double>(batch.num_sequences);
  const auto rows_each = static_cast<double>(batch.rows_each);
  const double rows = sequences * rows_each;
  const double hidden = config.hidden_size;
  const double heads = config.num_heads;
  const double head_dim = config.head_dim;
  const double width = heads * head_dim;
  const double kv_width = static_cast<double>(config.num_kv_heads) * head_dim;
  const double layers = config.num_layers;
  const double lightning = config.num_lightning_layers();
  const double softmax = config.num_softmax_layers();
  const DType dtype = config.weights_dtype;
  const WeightKind expert_kind = KindOf(config, true);
  const WeightKind other_kind = KindOf(config, false);
  const auto act_bytes = static_cast<double>(DTypeBytes(dtype));
  constexpr auto kChunk = static_cast<double>(kLightningChunk);

  std::vector<CostPart> parts;
  parts.push_back(
      Weights("attention", "lightning layers x 5 H W + softmax layers x 2 H (W + W_kv)",
              lightning * 5 * hidden * width + softmax * 2 * hidden * (width + kv_width), rows,
              hidden, other_kind));

  const double expert = 3.0 * hidden * config.expert_intermediate_size;
  const double shared = 3.0 * hidden * config.shared_intermediate_size;
  const double distinct = ExpectedExperts(config.num_experts, config.num_experts_per_token,
                                          batch.num_sequences * batch.rows_each);
  CostPart experts = Weights("experts", "layers x E (1 - (1 - k / E)^rows) x 3 H I",
                             layers * distinct * expert, 0, hidden, expert_kind);
  expert_kind.AddProducts(2 * rows * layers * config.num_experts_per_token * expert, &experts);
  if (shared > 0) {
    parts.push_back(
        Weights("shared", "layers x 3 H I_shared", layers * shared, rows, hidden, other_kind));
  }
  parts.push_back(experts);

  parts.push_back(Weights("gates", "layers x E H, fp32", layers * config.num_experts * hidden, rows,
                          hidden, {DType::kF32}));

  // Floats: fp32 rows by widened weights.
  CostPart head = Weights("head", "V H", static_cast<double>(config.vocab_size) * hidden, 0, hidden,
                          other_kind);
  const double head_flops = 2 * static_cast<double>(config.vocab_size) * hidden * sequences *
                            static_cast<double>(batch.head_rows_each);
  if (other_kind.format == MatrixFormat::kPlain) {
    head.fp32_flops = head_flops;
  } else {
    other_kind.AddProducts(head_flops, &head);
  }
  parts.push_back(head);

  // S is read in every pass that meets a new part of the grid and written where a chunk ends; a
  // pass of one row reads half an open chunk of k and v. q S and the fold: 2 head_dim products a
  // row and element of a head's width.
  const double state = lightning * width * head_dim * 4;
  const double chunk_ends = std::min(1.0, rows_each / kChunk);  // a pass, 1: written once
  CostPart states{"states",
                  "lightning layers x W D x 4 x (1 + written: rows / 32 at most 1) + open chunks"};
  states.bytes =
      sequences * (state * (1 + chunk_ends) + lightning * 2 * width * act_bytes *
                                                  std::min(kChunk / 2, rows_each + kChunk / 2));
  states.fp32_flops = 2 * rows * lightning * width * head_dim;  // q S: q widened
  const double chunk_products = 2 * 2 * rows * lightning * width * (kChunk + 1) / 2;
  const double fold = 2 * rows * lightning * width * head_dim;
  (dtype == DType::kBf16 ? states.pair_flops : states.fp32_flops) += chunk_products + fold;
  parts.push_back(states);

  // Keys that rows see on average: those before and half of their own.
  const double keys = static_cast<double>(batch.context_each) + (rows_each + 1) / 2;
  CostPart kv{"kv", "softmax layers x 2 W_kv x tokens"};
  kv.bytes = sequences * softmax * 2 * kv_width * act_bytes *
             (static_cast<double>(batch.context_each) + rows_each);
  (dtype == DType::kBf16 ? kv.pair_flops : kv.fp32_flops) = 2 * 2 * rows * softmax * width * keys;
  parts.push_back(kv);
  return parts;
}

CostPart TotalOf(const std::vector<CostPart>& parts) {
  CostPart total{"total", ""};
  for (const CostPart& part : parts) {
    total.bytes += part.bytes;
    total.pair_flops += part.pair_flops;
    total.fp32_flops += part.fp32_flops;
  }
  return total;
}

double BoundSeconds(const CostPart& cost, double bytes_per_s, double pair_flops_per_s,
                    double fp32_flops_per_s) {
  return std::max(cost.bytes / bytes_per_s,
                  cost.pair_flops / pair_flops_per_s + cost.fp32_flops / fp32_flops_per_s);
}

}  // namespace m1
