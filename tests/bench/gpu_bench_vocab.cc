// Rows of the vocabulary, by the kernels' own launches: the backend's operations wait for what they
// give.
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "tests/bench/gpu_bench.h"

namespace m1 {
namespace {

constexpr auto kF32 = DType::kF32;

absl::Status ToStatus(cuda::LaunchError error) {
  return error == 0 ? absl::OkStatus() : absl::InternalError(cuda::ErrorName(error));
}

// An array of the host on the GPU.
template <typename T>
class GpuArray {
 public:
  GpuArray(KernelBackend* backend, const std::vector<T>& values)
      : tensor_(backend->NewTensor(DType::kI8, BytesOf(values))) {
    const ConstTensorView bytes(values.data(), DType::kI8, BytesOf(values));
    M1_CHECK(backend->Upload(bytes, tensor_.view()).ok());
  }
  const T* data() const { return static_cast<const T*>(tensor_.view().data()); }

 private:
  static Shape BytesOf(const std::vector<T>& values) {
    return {static_cast<int64_t>(values.size() * sizeof(T))};
  }
  Tensor tensor_;
};

}  // namespace

void GpuBench::RunVocab(int64_t rows) {
  if (!IsDecode(rows)) return;
  LogSumExp(rows);
  Draw(rows, "greedy", /*temperature=*/0.0F, /*top_p=*/1.0F);
  Draw(rows, "plain", /*temperature=*/1.0F, /*top_p=*/1.0F);
  Draw(rows, "top_p 0.95", /*temperature=*/1.0F, /*top_p=*/0.95F);
  Score(rows);
}

void GpuBench::LogSumExp(int64_t rows) {
  const int64_t vocab = config_.vocab_size;
  const GpuArray<float> temperatures(backend_.get(),
                                     std::vector<float>(static_cast<size_t>(rows), 1.0F));
  Report("LogSumExp", absl::StrCat(rows, " x ", vocab),
         {.bytes = 4.0 * static_cast<double>(rows * vocab)}, [&] {
           return ToStatus(
               cuda::LaunchLogSumExp({.logits = weights_.Next(kF32, {rows, vocab}).data_as<float>(),
                                      .temperatures = temperatures.data(),
                                      .lse = results_.Next(kF32, {rows}).data_as<float>(),
                                      .rows = static_cast<int32_t>(rows),
                                      .vocab = static_cast<int32_t>(vocab)},
                                     stream_));
         });
}

void GpuBench::Draw(int64_t rows, const std::string& what, float temperature, float top_p) {
  const int64_t vocab = config_.vocab_size;
  std::vector<cuda::DrawParams> draws;
  for (int32_t row = 0; row < rows; ++row) {
    draws.push_back({.uniform = 0.5,
                     .row = row,
                     .first_edit = 0,
                     .num_edits = 0,
                     .temperature = temperature,
                     .top_k = 0,
                     .top_p = top_p,
                     .min_p = 0.0F});
  }
  const GpuArray<cuda::DrawParams> on_gpu(backend_.get(), draws);
  Report("DrawTokens", absl::StrCat(rows, " x ", vocab, ", ", what),
         {.bytes = 4.0 * static_cast<double>(rows * vocab)}, [&] {
           return ToStatus(
               cuda::LaunchDraw({.logits = weights_.Next(kF32, {rows, vocab}).data_as<float>(),
                                 .draws = on_gpu.data(),
                                 .edits = nullptr,
                                 .ids = results_.Next(DType::kI32, {rows}).data_as<int32_t>(),
                                 .scratch = results_.Next(kF32, {rows, vocab}).data_as<float>(),
                                 .num_draws = static_cast<int32_t>(rows),
                                 .num_edits = 0,
                                 .vocab = static_cast<int32_t>(vocab),
                                 .unit = WeightUnit(vocab)},
                                stream_));
         });
}

void GpuBench::Score(int64_t rows) {
  constexpr int32_t kCandidates = 5;
  const int64_t vocab = config_.vocab_size;
  std::vector<cuda::ScoreParams> requests;
  for (int32_t row = 0; row < rows; ++row) {
    requests.push_back(
        {.row = row, .id = row, .temperature = 1.0F, .lse = 10.0F, .candidate_count = kCandidates});
  }
  const GpuArray<cuda::ScoreParams> on_gpu(backend_.get(), requests);
  Report("ScoreTokens", absl::StrCat(rows, " x ", vocab, ", ", kCandidates, " candidates"),
         {.bytes = 4.0 * static_cast<double>(rows * vocab)}, [&] {
           const Shape candidates{rows, kCandidates};
           return ToStatus(cuda::LaunchScore(
               {.logits = weights_.Next(kF32, {rows, vocab}).data_as<float>(),
                .requests = on_gpu.data(),
                .logprobs = results_.Next(kF32, {rows}).data_as<float>(),
                .ranks = results_.Next(DType::kI32, {rows}).data_as<int32_t>(),
                .candidate_ids = results_.Next(DType::kI32, candidates).data_as<int32_t>(),
                .candidate_logprobs = results_.Next(kF32, candidates).data_as<float>(),
                .num_requests = static_cast<int32_t>(rows),
                .max_candidates = kCandidates,
                .vocab = static_cast<int32_t>(vocab)},
               stream_));
         });
}

}  // namespace m1
