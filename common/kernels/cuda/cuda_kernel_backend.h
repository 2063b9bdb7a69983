// KernelBackend over launch.h and runtime.h: checks the arguments, brings what the host has to the
// device, launches. Contracts: common/kernels/backend.h. No CUDA header.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/kernels/backend.h"
#include "common/kernels/cuda/device_errors.h"
#include "common/kernels/cuda/device_queue.h"
#include "common/kernels/cuda/event_timer.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

class CudaKernelBackend final : public KernelBackend {
 public:
  // Takes over the stream. Without graphs each kernel is a launch of its own.
  CudaKernelBackend(Stream stream, DeviceFaultHandler on_fault,
                    size_t max_graphs = GraphCache::kMaxGraphs)
      : errors_(stream, std::move(on_fault)), queue_(stream, &errors_, max_graphs) {}
  ~CudaKernelBackend() override;

  DeviceKind device_kind() const override { return DeviceKind::kCuda; }
  std::string name() const override { return "cuda"; }
  absl::Status CheckModel(const ModelShape& shape) const override;  // model_check.cc
  Stream stream() const { return queue_.stream(); }

  // backend_memory.cc
  Tensor NewTensor(DType dtype, const Shape& shape) override;
  int64_t AvailableBytes() const override;
  absl::Status Upload(ConstTensorView x, TensorView out) override;
  absl::Status Download(ConstTensorView x, TensorView out) override;
  absl::Status Zero(TensorView out) override;
  absl::Status Submit() override { return queue_.Submit(); }
  std::unique_ptr<DeviceTimer> NewTimer() override { return std::make_unique<EventTimer>(&queue_); }
  Tensor NewHostTensor(DType dtype, const Shape& shape) override;
  bool PinHost(void* data, int64_t bytes) override;
  void UnpinHost(void* data) override;
  absl::Status CopyRows(ConstTensorView x, std::span<const int32_t> x_rows, TensorView out,
                        std::span<const int32_t> out_rows) override;

  // backend_products.cc
  absl::Status Linears(ConstTensorView x, std::span<const LinearProduct> products) override;
  absl::Status GatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                       TensorView out) override;
  absl::Status ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                         TensorView out) override;

  // backend_rows.cc
  absl::Status Embed(std::span<const int32_t> ids, ConstTensorView table, TensorView out) override;
  absl::Status RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                       TensorView out) override;
  absl::Status Round(ConstTensorView x, TensorView out) override;
  absl::Status ScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                         TensorView out) override;
  absl::Status SigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) override;
  absl::Status TopKGate(ConstTensorView logits, TensorView ids, TensorView weights) override;
  absl::Status CombineExperts(ConstTensorView y, ConstTensorView weights, TensorView out) override;
  absl::Status SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                               ConstTensorView coefficient_logit, TensorView out) override;

  // backend_attention.cc
  absl::Status Rotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                      TensorView out) override;
  absl::Status AppendKv(ConstTensorView k, ConstTensorView v,
                        std::span<const PagedSequence> sequences, const KvPool& pool) override;
  absl::Status SoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                const KvPool& pool, TensorView out) override;
  absl::Status LightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                  std::span<const LightningSequence> sequences,
                                  TensorView out) override;

  // backend_sampling.cc
  absl::Status LogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                         std::span<float> lse) override;
  absl::Status DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                          std::span<int32_t> ids) override;
  absl::Status ScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                           std::span<TokenScore> scores) override;

 private:
  absl::Status ToStatus(LaunchError error, absl::string_view what) {
    return errors_.ToStatus(error, what);
  }

  // bf16 x with bf16 weights, all outputs of one type.
  absl::Status Multiply(ConstTensorView x, std::span<const LinearProduct> products, DType out);
  // fp32 x with fp32 weights; fp32 outputs.
  absl::Status MultiplyFloats(ConstTensorView x, std::span<const LinearProduct> products);
  // fp32 x with bf16 weights, as three bf16 terms; fp32 outputs.
  absl::Status MultiplySplit(ConstTensorView x, std::span<const LinearProduct> products);

  // Says once that memory of the host's is not pinned.
  void LogPageable(LaunchError error, int64_t bytes);

  // ExpertFfn, validated.
  absl::Status LaunchExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                               TensorView mid, TensorView out);

  // backend_quantized.cc: the operations without "Quantized", validated, with integers as weights.
  absl::Status QuantizedLinears(ConstTensorView x, std::span<const LinearProduct> products);
  absl::Status QuantizedGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                                TensorView out);
  absl::Status QuantizedExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                                  TensorView mid, TensorView out);
  // Arguments of a product of x's rows, which become integers in scratch, with matrices like w.
  absl::StatusOr<QuantProductArgs> QuantizeRows(ConstTensorView x, const MatrixView& w);

  DeviceErrors errors_;
  DeviceQueue queue_;
  std::atomic<bool> is_pageable_logged_ = false;
};

}  // namespace m1::cuda
