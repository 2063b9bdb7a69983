// The buffers of one step, in the backend's memory. Every step reuses them.
#pragma once

#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "common/model/config.h"
#include "common/tensor/tensor.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Some rows of the buffers that the layers use; shapes as in Workspace.
struct LayerBuffers {
  TensorView hidden;
  TensorView normed;
  TensorView normed_act;
  TensorView branch;
  TensorView shared;
  TensorView qkv;
  TensorView q;
  TensorView q_act;
  TensorView k;
  TensorView k_act;
  TensorView v_act;
  TensorView heads;
  TensorView output_gate;
  TensorView heads_act;
  TensorView cos;
  TensorView sin;
  TensorView gate_logits;
  TensorView expert_ids;
  TensorView expert_weights;
  TensorView expert_out;
  TensorView shared_mid;
  TensorView coefficient;
};

using MakeTensor = std::function<Tensor(DType, const Shape&)>;

struct Workspace {
  Workspace(const ModelConfig& config, DType act, int64_t max_rows, int64_t max_logit_rows,
            const MakeTensor& make)
      : hidden(make(DType::kF32, {max_rows, config.hidden_size})),
        normed(make(DType::kF32, {max_rows, config.hidden_size})),
        normed_act(make(act, {max_rows, config.hidden_size})),
        branch(make(DType::kF32, {max_rows, config.hidden_size})),
        shared(make(DType::kF32, {max_rows, config.hidden_size})),
        qkv(make(act, {max_rows, config.num_heads, 3, config.head_dim})),
        q(make(DType::kF32, {max_rows, config.num_heads, config.head_dim})),
        q_act(make(act, {max_rows, config.num_heads, config.head_dim})),
        k(make(DType::kF32, {max_rows, config.num_kv_heads, config.head_dim})),
        k_act(make(act, {max_rows, config.num_kv_heads, config.head_dim})),
        v_act(make(act, {max_rows, config.num_kv_heads, config.head_dim})),
        heads(make(DType::kF32, {max_rows, config.num_heads * config.head_dim})),
        output_gate(make(DType::kF32, {max_rows, config.num_heads * config.head_dim})),
        heads_act(make(act, {max_rows, config.num_heads * config.head_dim})),
        cos(make(DType::kF32, {max_rows, config.rotary_dim / 2})),
        sin(make(DType::kF32, {max_rows, config.rotary_dim / 2})),
        gate_logits(make(DType::kF32, {max_rows, config.num_experts})),
        expert_ids(make(DType::kI32, {max_rows, config.num_experts_per_token})),
        expert_weights(make(DType::kF32, {max_rows, config.num_experts_per_token})),
        expert_out(make(act, {max_rows, config.num_experts_per_token, config.hidden_size})),
        shared_mid(make(act, {max_rows, config.shared_intermediate_size})),
        coefficient(make(DType::kF32, {max_rows, 1})),
        last_hidden(make(DType::kF32, {max_logit_rows, config.hidden_size})),
        logits(make(DType::kF32, {max_logit_rows, config.vocab_size})) {}

  LayerBuffers Rows(int64_t begin, int64_t count) {
    const auto part = [&](Tensor& tensor) { return tensor.view().Rows(begin, count); };
    return {
        .hidden = part(hidden),
        .normed = part(normed),
        .normed_act = part(normed_act),
        .branch = part(branch),
        .shared = part(shared),
        .qkv = part(qkv),
        .q = part(q),
        .q_act = part(q_act),
        .k = part(k),
        .k_act = part(k_act),
        .v_act = part(v_act),
        .heads = part(heads),
        .output_gate = part(output_gate),
        .heads_act = part(heads_act),
        .cos = part(cos),
        .sin = part(sin),
        .gate_logits = part(gate_logits),
        .expert_ids = part(expert_ids),
        .expert_weights = part(expert_weights),
        .expert_out = part(expert_out),
        .shared_mid = part(shared_mid),
        .coefficient = part(coefficient),
    };
  }

  Tensor hidden;          // [rows, hidden]: the residual stream
  Tensor normed;          // [rows, hidden]
  Tensor normed_act;      // act [rows, hidden]
  Tensor branch;          // [rows, hidden]: attention or MoE, before the residual scales
  Tensor shared;          // [rows, hidden]: the shared expert
  Tensor qkv;             // act [rows, num_heads, 3, head_dim]
  Tensor q;               // [rows, num_heads, head_dim]
  Tensor q_act;           // act [rows, num_heads, head_dim]
  Tensor k;               // [rows, num_kv_heads, head_dim]
  Tensor k_act;           // act [rows, num_kv_heads, head_dim]
  Tensor v_act;           // act [rows, num_kv_heads, head_dim]
  Tensor heads;           // [rows, num_heads * head_dim]: lightning output
  Tensor output_gate;     // [rows, num_heads * head_dim]
  Tensor heads_act;       // act [rows, num_heads * head_dim]: what enters the output projection
  Tensor cos;             // [rows, rotary_dim / 2]
  Tensor sin;             // [rows, rotary_dim / 2]
  Tensor gate_logits;     // [rows, num_experts]
  Tensor expert_ids;      // int32 [rows, k], heaviest first
  Tensor expert_weights;  // [rows, k]
  Tensor expert_out;      // act [rows, k, hidden]
  Tensor shared_mid;      // act [rows, shared_intermediate]
  Tensor coefficient;     // [rows, 1]
  Tensor last_hidden;     // [logit rows, hidden]: final norm's input, then its output
  Tensor logits;          // [logit rows, vocab]
};

// The host's side of a step.
struct HostBuffers {
  HostBuffers(const ModelConfig& config, int64_t max_rows, int64_t max_logit_rows,
              const MakeTensor& make)
      : cos(make(DType::kF32, {max_rows, config.rotary_dim / 2})),
        sin(make(DType::kF32, {max_rows, config.rotary_dim / 2})),
        expert_ids(make(DType::kI32, {max_rows, config.num_experts_per_token})),
        row_numbers(static_cast<size_t>(max_logit_rows)),
        log_sum_exp(static_cast<size_t>(max_logit_rows)) {
    std::iota(row_numbers.begin(), row_numbers.end(), 0);
  }

  Tensor cos;                        // [rows, rotary_dim / 2]
  Tensor sin;                        // [rows, rotary_dim / 2]
  Tensor expert_ids;                 // int32 [rows, k]
  std::vector<int32_t> row_numbers;  // 0, 1, ... [logit rows]
  std::vector<float> log_sum_exp;    // [logit rows]
};

}  // namespace m1
