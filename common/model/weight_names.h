// The name and shape of every tensor that a config asks for, in each layout of names.
#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/model/config.h"
#include "common/tensor/shape.h"

namespace m1 {

// kSeparate: block_sparse_moe.experts.E.{w1,w2,w3}, the original files and most transformers ones.
// kFused: mlp.experts.{gate_up_proj,down_proj} with an axis of experts; transformers 5 only.
enum class ExpertLayout : uint8_t { kSeparate, kFused };

// What a tensor is in the model: its place in AttentionWeights or ExpertWeights.
enum class TensorSlot : uint8_t {
  kEmbedding,
  kFinalNorm,
  kLmHead,
  kInputNorm,
  kPostAttentionNorm,
  kGate,
  kQkvProj,  // lightning layers
  kOutputGate,
  kInnerNorm,
  kOutProj,
  kQProj,  // softmax layers
  kKProj,
  kVProj,
  kOProj,
  kSharedGateProj,
  kSharedUpProj,
  kSharedDownProj,
  kSharedCoefficient,
  kExpertW1,
  kExpertW2,
  kExpertW3,
  kFusedGateUp,  // [experts, 2 * intermediate, hidden]: w1 above w3
  kFusedDown,    // [experts, hidden, intermediate]
};

// Tensors that an expert worker owns; all others are the attention worker's.
bool IsExpertSlot(TensorSlot slot);
// Norms, router gate, shared coefficient: fp32 is welcome beside bf16 matrices.
bool MayStayFp32(TensorSlot slot);

// A matrix that the quantisation replaces by integers and scales.
bool IsQuantizedSlot(TensorSlot slot, const WeightQuantization& quantization);
// "NAME_scale": where the scales of tensor NAME are.
std::string ScaleName(const std::string& name);
// What stands in a file for a matrix, or matrices, of `shape`. Errors: DataLoss for rows that are
// too long for integers or that groups do not divide.
struct QuantizedTensors {
  DType integers_dtype = DType::kI8;
  Shape integers;  // int8 as the matrix; int4: half as long rows, two elements a byte
  DType scales_dtype = DType::kF32;
  Shape scales;  // int8: one a row; int4: one a group
};
absl::StatusOr<QuantizedTensors> QuantizedAs(const WeightQuantization& quantization,
                                             const Shape& shape);

struct TensorSpec {
  std::string name;
  Shape shape;
  TensorSlot slot = TensorSlot::kEmbedding;
  int32_t layer = -1;   // -1: outside the layers
  int32_t expert = -1;  // -1: no expert's, or all experts' (fused)
};

// Visits every tensor, in a fixed order; stops at the first error and returns it.
absl::Status ForEachTensor(const ModelConfig& config, ExpertLayout layout,
                           absl::FunctionRef<absl::Status(const TensorSpec&)> visit);

// "model.layers.0.shared_mlp.gate_proj.weight", whose width tells what the shared expert was sized
// by.
std::string SharedGateProjName(int32_t layer);
// A tensor that only the fused layout has.
std::string FusedGateUpName(int32_t layer);

// Tables that transformers saves with lightning layers and that we compute ourselves:
// model.layers.N.self_attn.{slope_rate,query_decay,key_decay,diagonal_decay}.
bool IsIgnoredTensor(const ModelConfig& config, absl::string_view name);

}  // namespace m1
