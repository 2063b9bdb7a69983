// The tensors of a checkpoint by role. All views borrow the memory that the Checkpoint maps.
// Linear weights are [out, in] row-major, exactly as the files hold them.
#pragma once

#include <optional>
#include <vector>

#include "common/tensor/matrix_view.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

struct LightningWeights {
  MatrixView qkv_proj;     // [num_heads * 3 * head_dim, hidden]; q, k, v inside each head
  MatrixView output_gate;  // [num_heads * head_dim, hidden]
  ConstTensorView norm;    // [num_heads * head_dim]
  MatrixView out_proj;     // [hidden, num_heads * head_dim]
};

struct SoftmaxWeights {
  MatrixView q_proj;  // [num_heads * head_dim, hidden]
  MatrixView k_proj;  // [num_kv_heads * head_dim, hidden]
  MatrixView v_proj;  // [num_kv_heads * head_dim, hidden]
  MatrixView o_proj;  // [hidden, num_heads * head_dim]
};

struct SharedMlpWeights {
  MatrixView gate_proj;         // [shared_intermediate, hidden]
  MatrixView up_proj;           // [shared_intermediate, hidden]
  MatrixView down_proj;         // [hidden, shared_intermediate]
  ConstTensorView coefficient;  // [1, hidden]
};

struct AttentionLayerWeights {
  ConstTensorView input_norm;                 // [hidden]
  ConstTensorView post_attention_norm;        // [hidden]
  ConstTensorView gate;                       // [num_experts, hidden]
  std::optional<LightningWeights> lightning;  // exactly one of the two
  std::optional<SoftmaxWeights> softmax;
  std::optional<SharedMlpWeights> shared_mlp;
};

// What an attention worker owns: everything but the experts.
struct AttentionWeights {
  ConstTensorView embedding;                  // [vocab, hidden]
  ConstTensorView final_norm;                 // [hidden]
  MatrixView lm_head;                         // [vocab, hidden]; the embedding when tied
  std::vector<AttentionLayerWeights> layers;  // [num_layers]
};

// y = w2 (silu(w1 h) * (w3 h))
struct ExpertWeights {
  MatrixView w1;  // [intermediate, hidden]
  MatrixView w2;  // [hidden, intermediate]
  MatrixView w3;  // [intermediate, hidden]
};

}  // namespace m1
