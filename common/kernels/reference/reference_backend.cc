#include <memory>
#include <string>

#include "common/base/status_macros.h"
#include "common/kernels/backend.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/host_memory_backend.h"
#include "common/kernels/reference/attention_ops.h"
#include "common/kernels/reference/dense_ops.h"
#include "common/kernels/reference/sampling_ops.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

class ReferenceBackend final : public HostMemoryBackend {
 public:
  std::string name() const override { return "reference"; }

  absl::Status Embed(std::span<const int32_t> ids, ConstTensorView table, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateEmbed(ids, table, out));
    const ScopedFlushDenormals flush;
    ReferenceEmbed(ids, table, out);
    return absl::OkStatus();
  }

  absl::Status RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                       TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateRmsNorm(x, weight, out));
    const ScopedFlushDenormals flush;
    ReferenceRmsNorm(x, weight, eps, out);
    return absl::OkStatus();
  }

  absl::Status Round(ConstTensorView x, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateRound(x, out));
    const ScopedFlushDenormals flush;
    ReferenceRound(x, out);
    return absl::OkStatus();
  }

  absl::Status Linears(ConstTensorView x, std::span<const LinearProduct> products) override {
    for (const LinearProduct& product : products) {
      M1_RETURN_IF_ERROR(ValidateLinear(x, product.w, product.out));
    }
    const ScopedFlushDenormals flush;
    for (const LinearProduct& product : products) {
      ReferenceLinear(x, product.w, product.epilogue, product.out);
    }
    return absl::OkStatus();
  }

  absl::Status GatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                       TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateGatedUp(x, gate, up, out));
    const ScopedFlushDenormals flush;
    ReferenceGatedUp(x, gate, up, out);
    return absl::OkStatus();
  }

  absl::Status ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                         TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateExpertFfn(x, groups, mid, out));
    const ScopedFlushDenormals flush;
    ReferenceExpertFfn(x, groups, mid, out);
    return absl::OkStatus();
  }

  absl::Status ScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                         TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateScaledAdd(x, y, out));
    const ScopedFlushDenormals flush;
    ReferenceScaledAdd(alpha, x, beta, y, out);
    return absl::OkStatus();
  }

  absl::Status SigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateSigmoidMul(gate, x, out));
    const ScopedFlushDenormals flush;
    ReferenceSigmoidMul(gate, x, out);
    return absl::OkStatus();
  }

  absl::Status TopKGate(ConstTensorView logits, TensorView ids, TensorView weights) override {
    M1_RETURN_IF_ERROR(ValidateTopKGate(logits, ids, weights));
    const ScopedFlushDenormals flush;
    ReferenceTopKGate(logits, ids, weights);
    return absl::OkStatus();
  }

  absl::Status CombineExperts(ConstTensorView y, ConstTensorView weights, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateCombineExperts(y, weights, out));
    const ScopedFlushDenormals flush;
    ReferenceCombineExperts(y, weights, out);
    return absl::OkStatus();
  }

  absl::Status SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                               ConstTensorView coefficient_logit, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateSharedExpertMix(moe, shared, coefficient_logit, out));
    const ScopedFlushDenormals flush;
    ReferenceSharedExpertMix(moe, shared, coefficient_logit, out);
    return absl::OkStatus();
  }

  absl::Status Rotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                      TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateRotary(x, cos, sin, out));
    const ScopedFlushDenormals flush;
    return ReferenceRotary(x, cos, sin, out);
  }

  absl::Status AppendKv(ConstTensorView k, ConstTensorView v,
                        std::span<const PagedSequence> sequences, const KvPool& pool) override {
    M1_RETURN_IF_ERROR(ValidateAppendKv(k, v, sequences, pool));
    const ScopedFlushDenormals flush;
    return ReferenceAppendKv(k, v, sequences, pool);
  }

  absl::Status SoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                const KvPool& pool, TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateSoftmaxAttention(q, sequences, pool, out));
    const ScopedFlushDenormals flush;
    return ReferenceSoftmaxAttention(q, sequences, pool, out);
  }

  absl::Status LightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                  std::span<const LightningSequence> sequences,
                                  TensorView out) override {
    M1_RETURN_IF_ERROR(ValidateLightningAttention(qkv, decays, sequences, out));
    const ScopedFlushDenormals flush;
    return ReferenceLightningAttention(qkv, decays, sequences, out);
  }

  absl::Status LogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                         std::span<float> lse) override {
    M1_RETURN_IF_ERROR(ValidateLogSumExp(logits, temperatures, lse));
    const ScopedFlushDenormals flush;
    ReferenceLogSumExp(logits, temperatures, lse);
    return absl::OkStatus();
  }

  absl::Status DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                          std::span<int32_t> ids) override {
    M1_RETURN_IF_ERROR(ValidateDrawTokens(logits, draws, ids));
    const ScopedFlushDenormals flush;
    for (size_t i = 0; i < draws.size(); ++i) {
      ids[i] = ReferenceDrawToken(Row(logits, draws[i].row), draws[i]);
    }
    return absl::OkStatus();
  }

  absl::Status ScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                           std::span<TokenScore> scores) override {
    M1_RETURN_IF_ERROR(ValidateScoreTokens(logits, requests, scores));
    const ScopedFlushDenormals flush;
    for (size_t i = 0; i < requests.size(); ++i) {
      scores[i] = ReferenceScoreToken(Row(logits, requests[i].row), requests[i]);
    }
    return absl::OkStatus();
  }

 private:
  static std::span<const float> Row(ConstTensorView logits, int64_t row) {
    return {logits.data_as<float>() + row * logits.dim(1), static_cast<size_t>(logits.dim(1))};
  }
};

}  // namespace

std::unique_ptr<KernelBackend> CreateReferenceBackend() {
  return std::make_unique<ReferenceBackend>();
}

}  // namespace m1
