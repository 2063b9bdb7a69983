#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/validate.h"

namespace m1::cuda {

absl::Status CudaKernelBackend::Embed(std::span<const int32_t> ids, ConstTensorView table,
                                      TensorView out) {
  M1_RETURN_IF_ERROR(ValidateEmbed(ids, table, out));
  if (out.num_elements() == 0) return absl::OkStatus();
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(ids));
  const int32_t rows = Int(out.dim(0));
  const int32_t hidden = Int(out.dim(1));
  const LaunchError error =
      table.dtype() == DType::kF32
          ? LaunchEmbed(
                EmbedArgs<float>{std::get<0>(sent), Floats(table), Floats(out), rows, hidden},
                queue_.target())
          : LaunchEmbed(EmbedArgs<Bf16>{std::get<0>(sent), Bf16s(table), Floats(out), rows, hidden},
                        queue_.target());
  return ToStatus(error, "embed");
}

absl::Status CudaKernelBackend::RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                                        TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRmsNorm(x, weight, out));
  const int32_t n = Int(x.dim(1));
  const LaunchError error =
      weight.dtype() == DType::kF32
          ? LaunchRmsNorm(RmsNormArgs<float>{Floats(x), Floats(weight), Floats(out), n, eps},
                          Int(x.dim(0)), queue_.target())
          : LaunchRmsNorm(RmsNormArgs<Bf16>{Floats(x), Bf16s(weight), Floats(out), n, eps},
                          Int(x.dim(0)), queue_.target());
  return ToStatus(error, "rms_norm");
}

absl::Status CudaKernelBackend::Round(ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateRound(x, out));
  M1_RETURN_IF_ERROR(NeedBf16("round: out", out));
  return ToStatus(LaunchRound({Floats(x), Bf16s(out), x.num_elements()}, queue_.target()), "round");
}

absl::Status CudaKernelBackend::ScaledAdd(float alpha, ConstTensorView x, float beta,
                                          ConstTensorView y, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateScaledAdd(x, y, out));
  return ToStatus(
      LaunchScaledAdd({alpha, Floats(x), beta, Floats(y), Floats(out), x.num_elements()},
                      queue_.target()),
      "scaled_add");
}

absl::Status CudaKernelBackend::SigmoidMul(ConstTensorView gate, ConstTensorView x,
                                           TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSigmoidMul(gate, x, out));
  M1_RETURN_IF_ERROR(NeedBf16("sigmoid_mul: out", out));
  return ToStatus(
      LaunchSigmoidMul({Floats(gate), Floats(x), Bf16s(out), x.num_elements()}, queue_.target()),
      "sigmoid_mul");
}

absl::Status CudaKernelBackend::TopKGate(ConstTensorView logits, TensorView ids,
                                         TensorView weights) {
  M1_RETURN_IF_ERROR(ValidateTopKGate(logits, ids, weights));
  if (logits.dim(1) > kMaxGateExperts || ids.dim(1) > kWarpLanes) {
    return absl::UnimplementedError(absl::StrCat("top_k_gate: ", ids.dim(1), " of ", logits.dim(1),
                                                 " experts, a GPU takes at most ", kWarpLanes,
                                                 " of ", kMaxGateExperts));
  }
  const TopKGateArgs args{.logits = Floats(logits),
                          .ids = ids.data_as<int32_t>(),
                          .weights = Floats(weights),
                          .rows = Int(logits.dim(0)),
                          .experts = Int(logits.dim(1)),
                          .k = Int(ids.dim(1))};
  return ToStatus(LaunchTopKGate(args, queue_.target()), "top_k_gate");
}

absl::Status CudaKernelBackend::CombineExperts(ConstTensorView y, ConstTensorView weights,
                                               TensorView out) {
  M1_RETURN_IF_ERROR(ValidateCombineExperts(y, weights, out));
  M1_RETURN_IF_ERROR(NeedBf16("combine_experts: y", y));
  const CombineArgs<Bf16> args{.y = Bf16s(y),
                               .weights = Floats(weights),
                               .out = Floats(out),
                               .rows = Int(y.dim(0)),
                               .k = Int(y.dim(1)),
                               .hidden = Int(y.dim(2))};
  return ToStatus(LaunchCombine(args, queue_.target()), "combine_experts");
}

absl::Status CudaKernelBackend::SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                                                ConstTensorView coefficient_logit, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateSharedExpertMix(moe, shared, coefficient_logit, out));
  const SharedMixArgs args{.moe = Floats(moe),
                           .shared = Floats(shared),
                           .coefficient_logit = Floats(coefficient_logit),
                           .out = Floats(out),
                           .rows = Int(moe.dim(0)),
                           .hidden = Int(moe.dim(1))};
  return ToStatus(LaunchSharedMix(args, queue_.target()), "shared_expert_mix");
}

}  // namespace m1::cuda
