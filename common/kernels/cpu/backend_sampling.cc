#include "common/base/status_macros.h"
#include "common/kernels/cpu/cpu_kernel_backend.h"
#include "common/kernels/cpu/views.h"
#include "common/kernels/exact_math.h"
#include "common/kernels/validate.h"

namespace m1 {

// sample(sampler, index) for every item, on any of the threads.
void CpuKernelBackend::RunSamplers(int64_t num_items, int64_t vocab,
                                   absl::FunctionRef<void(RowSampler&, size_t)> sample) {
  pool_.ParallelFor(num_items, kMinPassElements / vocab, [&](int64_t begin, int64_t end) {
    std::unique_ptr<RowSampler> sampler = TakeSampler();
    for (int64_t i = begin; i < end; ++i) sample(*sampler, static_cast<size_t>(i));
    MutexLock lock(&samplers_mutex_);
    idle_samplers_.push_back(std::move(sampler));
  });
}

std::unique_ptr<RowSampler> CpuKernelBackend::TakeSampler() {
  MutexLock lock(&samplers_mutex_);
  if (idle_samplers_.empty()) return std::make_unique<RowSampler>(&kernels_);
  std::unique_ptr<RowSampler> sampler = std::move(idle_samplers_.back());
  idle_samplers_.pop_back();
  return sampler;
}

absl::Status CpuKernelBackend::DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                                          std::span<int32_t> ids) {
  M1_RETURN_IF_ERROR(ValidateDrawTokens(logits, draws, ids));
  const ScopedFlushDenormals flush;
  const int64_t vocab = logits.dim(1);
  RunSamplers(static_cast<int64_t>(draws.size()), vocab, [&](RowSampler& sampler, size_t i) {
    float* row = ToFloats(logits) + draws[i].row * vocab;
    ids[i] = sampler.Draw({row, static_cast<size_t>(vocab)}, draws[i]);
  });
  return absl::OkStatus();
}

absl::Status CpuKernelBackend::ScoreTokens(ConstTensorView logits,
                                           std::span<const ScoreRequest> requests,
                                           std::span<TokenScore> scores) {
  M1_RETURN_IF_ERROR(ValidateScoreTokens(logits, requests, scores));
  const ScopedFlushDenormals flush;
  const int64_t vocab = logits.dim(1);
  RunSamplers(static_cast<int64_t>(requests.size()), vocab, [&](RowSampler& sampler, size_t i) {
    const float* row = ToFloats(logits) + requests[i].row * vocab;
    scores[i] = sampler.Score({row, static_cast<size_t>(vocab)}, requests[i]);
  });
  return absl::OkStatus();
}

}  // namespace m1
