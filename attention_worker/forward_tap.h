// A view into the forward pass, for tests that compare intermediate arrays with a reference.
#pragma once

#include <cstdint>

#include "attention_worker/step_batch.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// The arrays lie in the memory of the forward pass' backend.
class ForwardTap {
 public:
  virtual ~ForwardTap() = default;
  // Before the first layer of a step.
  virtual void OnStep(const StepBatch& batch) = 0;
  // fp32 [rows, hidden], before the residual scales.
  virtual void OnAttention(int32_t layer, ConstTensorView branch) = 0;
  // logits fp32 [rows, experts]; ids int32 [rows, k]; weights fp32 [rows, k].
  virtual void OnGate(int32_t layer, ConstTensorView logits, ConstTensorView ids,
                      ConstTensorView weights) = 0;
  // The residual stream after the layer, fp32 [rows, hidden].
  virtual void OnLayer(int32_t layer, ConstTensorView hidden) = 0;
};

}  // namespace m1
