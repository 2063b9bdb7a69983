// The operations of backend.h without attention, as plain loops: the specification of the fast
// versions. Callers validated the arguments (validate.h) and hold a ScopedFlushDenormals.
#pragma once

#include <cstdint>
#include <span>

#include "common/kernels/backend.h"

namespace m1 {

void ReferenceEmbed(std::span<const int32_t> ids, ConstTensorView table, TensorView out);
void ReferenceRmsNorm(ConstTensorView x, ConstTensorView weight, float eps, TensorView out);
void ReferenceRound(ConstTensorView x, TensorView out);
void ReferenceLinear(ConstTensorView x, const MatrixView& w, Epilogue epilogue, TensorView out);
void ReferenceGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                      TensorView out);
void ReferenceExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                        TensorView out);
void ReferenceScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                        TensorView out);
void ReferenceSigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out);
void ReferenceTopKGate(ConstTensorView logits, TensorView ids, TensorView weights);
void ReferenceCombineExperts(ConstTensorView y, ConstTensorView weights, TensorView out);
void ReferenceSharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                              ConstTensorView coefficient_logit, TensorView out);
void ReferenceLogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                        std::span<float> lse);

}  // namespace m1
