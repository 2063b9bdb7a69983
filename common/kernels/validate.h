// The shapes and dtypes that every operation of backend.h asks for, checked once for all backends.
// InvalidArgument says what, got and wanted. The parameters are the operation's own.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"

#include "common/kernels/backend.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

absl::Status ValidateTransfer(ConstTensorView x, ConstTensorView out);
absl::Status ValidateCopyRows(ConstTensorView x, std::span<const int32_t> x_rows,
                              ConstTensorView out, std::span<const int32_t> out_rows);
absl::Status ValidateEmbed(std::span<const int32_t> ids, ConstTensorView table,
                           ConstTensorView out);
absl::Status ValidateRmsNorm(ConstTensorView x, ConstTensorView weight, ConstTensorView out);
absl::Status ValidateRound(ConstTensorView x, ConstTensorView out);
absl::Status ValidateLinear(ConstTensorView x, const MatrixView& w, ConstTensorView out);
absl::Status ValidateGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                             ConstTensorView out);
absl::Status ValidateExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                               ConstTensorView mid, ConstTensorView out);
absl::Status ValidateScaledAdd(ConstTensorView x, ConstTensorView y, ConstTensorView out);
absl::Status ValidateSigmoidMul(ConstTensorView gate, ConstTensorView x, ConstTensorView out);
absl::Status ValidateTopKGate(ConstTensorView logits, ConstTensorView ids, ConstTensorView weights);
absl::Status ValidateCombineExperts(ConstTensorView y, ConstTensorView weights,
                                    ConstTensorView out);
absl::Status ValidateSharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                                     ConstTensorView coefficient_logit, ConstTensorView out);

// validate_sampling.cc
absl::Status ValidateLogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                               std::span<const float> lse);
absl::Status ValidateDrawTokens(ConstTensorView logits, std::span<const TokenDraw> draws,
                                std::span<const int32_t> ids);
absl::Status ValidateScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                                 std::span<const TokenScore> scores);

// validate_attention.cc
absl::Status ValidateRotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                            ConstTensorView out);
absl::Status ValidateAppendKv(ConstTensorView k, ConstTensorView v,
                              std::span<const PagedSequence> sequences, const KvPool& pool);
absl::Status ValidateSoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                      const KvPool& pool, ConstTensorView out);
absl::Status ValidateLightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                        std::span<const LightningSequence> sequences,
                                        ConstTensorView out);

// What the validators are made of; `what` names operation and tensor, as in "linear: x".
// fp32 or bf16.
absl::Status CheckAct(absl::string_view what, ConstTensorView view);
absl::Status CheckDType(absl::string_view what, ConstTensorView view, DType dtype);
absl::Status CheckRank(absl::string_view what, ConstTensorView view, int rank);
absl::Status CheckShape(absl::string_view what, ConstTensorView view, const Shape& shape);
// In [0, size).
absl::Status CheckIndex(absl::string_view what, int64_t index, int64_t size);
// validate_matrix.cc
// A matrix [out, in] of whichever format, its scales included. The scales' values are not looked
// at: whoever loads them does that.
absl::Status CheckMatrix(absl::string_view what, const MatrixView& matrix, const Shape& shape);
// Of one MatrixFormat; int4 groups may differ in size.
absl::Status CheckSameFormat(absl::string_view what, const MatrixView& matrix,
                             const MatrixView& other);
// The rows lie in [0, num_rows); positions are not negative and do not overflow.
absl::Status CheckRows(absl::string_view what, const SequenceRows& rows, int64_t num_rows);

}  // namespace m1
