// What of a model decides whether a backend has kernels for it, by the names of config.json.
#pragma once

#include <cstdint>

#include "common/tensor/dtype.h"
#include "common/tensor/matrix_view.h"

namespace m1 {

struct ModelShape {
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t num_local_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t intermediate_size = 0;         // of an expert
  int64_t shared_intermediate_size = 0;  // 0: no shared expert
  int64_t vocab_size = 0;
  bool has_lightning_layers = false;
  bool has_softmax_layers = false;
  // Of matrices that are not quantised; norms, gates and their like may be fp32 beside bf16.
  DType matrix_dtype = DType::kBf16;
  MatrixFormat expert_format = MatrixFormat::kPlain;
  MatrixFormat other_format = MatrixFormat::kPlain;  // of projections, shared expert, LM head
  int64_t group_size = 0;                            // of int4
  bool has_tied_lm_head = false;                     // it is the embedding, never quantised
};

}  // namespace m1
