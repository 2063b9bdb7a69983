// KernelBackend on the kernels of one instruction set: checks the arguments, then shares the parts
// of the output among the threads. Contracts: common/kernels/backend.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "common/base/mutex.h"
#include "common/kernels/backend.h"
#include "common/kernels/cpu/row_sampler.h"
#include "common/kernels/cpu/targets.h"
#include "common/kernels/cpu/thread_pool.h"
#include "common/kernels/host_memory_backend.h"
#include "common/tensor/tensor.h"

namespace m1 {

class CpuKernelBackend final : public HostMemoryBackend {
 public:
  CpuKernelBackend(const CpuTarget& target, int num_threads, const std::vector<int>& cores)
      : target_(target), kernels_(*target.kernels), pool_(num_threads, cores) {}

  std::string name() const override { return target_.name; }

  // backend_dense.cc
  absl::Status Embed(std::span<const int32_t> ids, ConstTensorView table, TensorView out) override;
  absl::Status RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                       TensorView out) override;
  absl::Status Round(ConstTensorView x, TensorView out) override;
  absl::Status Linears(ConstTensorView x, std::span<const LinearProduct> products) override;
  absl::Status GatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                       TensorView out) override;
  absl::Status ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                         TensorView out) override;
  absl::Status ScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                         TensorView out) override;
  absl::Status SigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) override;
  absl::Status TopKGate(ConstTensorView logits, TensorView ids, TensorView weights) override;
  absl::Status CombineExperts(ConstTensorView y, ConstTensorView weights, TensorView out) override;
  absl::Status SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                               ConstTensorView coefficient_logit, TensorView out) override;
  absl::Status LogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                         std::span<float> lse) override;

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
  absl::Status DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                          std::span<int32_t> ids) override;
  absl::Status ScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                           std::span<TokenScore> scores) override;

 private:
  // Elements that a part of a pass over memory must have to pay for a thread: some microseconds.
  static constexpr int64_t kMinPassElements = 16 * 1024;

  // Multiplications that a part of a product must have: likewise.
  static constexpr int64_t kMinPartTerms = 64 * 1024;

  // One matrix product, or half an expert, among those that run together.
  template <typename Args>
  struct Product {
    Args args;
    int64_t num_rows;
  };

  // kernel(args, range of [0, num_rows)) in parts of at least as many rows as pay for a thread.
  template <typename Args>
  void RunRows(void (*kernel)(const Args&, Range), const Args& args, int64_t num_rows,
               int64_t row_elements) {
    pool_.ParallelFor(num_rows, kMinPassElements / std::max<int64_t>(row_elements, 1),
                      [&](int64_t begin, int64_t end) {
                        kernel(args, {begin, end});
                      });
  }
  // kernel(args, range of [0, num_parts)), where all parts together take `terms` multiplications.
  template <typename Args>
  void RunParts(void (*kernel)(const Args&, Range), const Args& args, int64_t num_parts,
                int64_t terms) {
    if (num_parts == 0) return;
    const int64_t part_terms = std::max<int64_t>(terms / num_parts, 1);
    pool_.ParallelFor(num_parts, kMinPartTerms / part_terms, [&](int64_t begin, int64_t end) {
      kernel(args, {begin, end});
    });
  }
  // kernel(args, range of elements); ranges begin at multiples of 16.
  template <typename Args>
  void RunElements(void (*kernel)(const Args&, Range), const Args& args, int64_t num_elements);
  // All products in one parallel region, shared out by output columns and, where these are few, by
  // rows.
  template <typename Args>
  void RunProducts(void (*kernel)(const Args&, Range, Range),
                   std::span<const Product<Args>> products);

  // backend_quantized.cc: the operations without "Quantized", validated, with integers as weights.
  void QuantizedLinears(ConstTensorView x, std::span<const LinearProduct> products);
  void QuantizedGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                        TensorView out);
  void QuantizedExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                          TensorView out);
  // Rows `rows` of x as integers in quantized_rows_, for matrices of `format`.
  QuantizedRows QuantizeRows(ConstTensorView x, Range rows, MatrixFormat format);

  void RunSamplers(int64_t num_items, int64_t vocab,
                   absl::FunctionRef<void(RowSampler&, size_t)> sample);
  std::unique_ptr<RowSampler> TakeSampler();

  const CpuTarget& target_;
  const KernelTable& kernels_;
  ThreadPool pool_;
  // The rows of the quantised product that runs; grows to the largest.
  Tensor quantized_rows_;
  Mutex samplers_mutex_;
  // At most one a thread; each keeps buffers of the size of the vocabulary.
  std::vector<std::unique_ptr<RowSampler>> idle_samplers_ ABSL_GUARDED_BY(samplers_mutex_);
};

}  // namespace m1
