#include <algorithm>
#include <bit>
#include <vector>

#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/validate.h"

namespace m1::cuda {
namespace {

int32_t Size(const auto& container) { return Int(static_cast<int64_t>(container.size())); }

absl::Status CheckVocab(absl::string_view what, ConstTensorView logits) {
  if (logits.dim(1) >= 1 && logits.dim(1) <= kMaxVocab) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(what, " has shape ", logits.shape().ToString(),
                                               ", a GPU takes 1 to ", kMaxVocab, " columns"));
}

std::vector<DrawParams> ParamsOf(std::span<const TokenDraw> draws) {
  std::vector<DrawParams> params;
  int32_t first_edit = 0;
  for (const TokenDraw& draw : draws) {
    params.push_back({.uniform = draw.uniform,
                      .row = Int(draw.row),
                      .first_edit = first_edit,
                      .num_edits = Size(draw.edits),
                      .temperature = draw.temperature,
                      .top_k = draw.top_k,
                      .top_p = draw.top_p,
                      .min_p = draw.min_p});
    first_edit += Size(draw.edits);
  }
  return params;
}

std::vector<LogitEdit> EditsOf(std::span<const TokenDraw> draws) {
  std::vector<LogitEdit> edits;
  for (const TokenDraw& draw : draws) {
    edits.insert(edits.end(), draw.edits.begin(), draw.edits.end());
  }
  return edits;
}

// A request's results among those of all, four bytes each: logprobs, ranks, then max_candidates
// ids and logprobs for each request.
struct ScoreLayout {
  size_t num_requests;
  size_t max_candidates;

  size_t ranks() const { return num_requests; }
  size_t candidate_ids() const { return 2 * num_requests; }
  size_t candidate_logprobs() const { return (2 + max_candidates) * num_requests; }
  size_t size() const { return (2 + 2 * max_candidates) * num_requests; }
};

TokenScore ScoreAt(const std::vector<uint32_t>& words, const ScoreLayout& layout, size_t i,
                   const ScoreRequest& request, int64_t vocab) {
  TokenScore score{.id = request.id,
                   .logprob = std::bit_cast<float>(words[i]),
                   .rank = std::bit_cast<int32_t>(words[layout.ranks() + i])};
  const auto count = static_cast<size_t>(std::clamp<int64_t>(request.candidate_count, 0, vocab));
  const size_t first = i * layout.max_candidates;
  for (size_t c = first; c < first + count; ++c) {
    score.candidates.push_back({std::bit_cast<int32_t>(words[layout.candidate_ids() + c]),
                                std::bit_cast<float>(words[layout.candidate_logprobs() + c])});
  }
  return score;
}

}  // namespace

absl::Status CudaKernelBackend::LogSumExp(ConstTensorView logits,
                                          std::span<const float> temperatures,
                                          std::span<float> lse) {
  M1_RETURN_IF_ERROR(ValidateLogSumExp(logits, temperatures, lse));
  if (lse.empty()) return absl::OkStatus();
  M1_RETURN_IF_ERROR(CheckVocab("log_sum_exp: logits", logits));
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(temperatures));
  M1_ASSIGN_OR_RETURN(void* const results, queue_.Scratch(lse.size_bytes()));
  const LogSumExpArgs args{.logits = Floats(logits),
                           .temperatures = std::get<0>(sent),
                           .lse = static_cast<float*>(results),
                           .rows = Int(logits.dim(0)),
                           .vocab = Int(logits.dim(1))};
  M1_RETURN_IF_ERROR(ToStatus(LaunchLogSumExp(args, queue_.target()), "log_sum_exp"));
  return queue_.CopyToHost(lse.data(), results, lse.size_bytes());
}

absl::Status CudaKernelBackend::DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                                           std::span<int32_t> ids) {
  M1_RETURN_IF_ERROR(ValidateDrawTokens(logits, draws, ids));
  if (draws.empty()) return absl::OkStatus();
  M1_RETURN_IF_ERROR(CheckVocab("draw_tokens: logits", logits));
  const std::vector<DrawParams> params = ParamsOf(draws);
  const std::vector<LogitEdit> edits = EditsOf(draws);
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(std::span<const DrawParams>(params),
                                                  std::span<const LogitEdit>(edits)));
  const int64_t work_bytes = DrawScratchBytes(Size(draws), Size(edits), logits.dim(1));
  M1_ASSIGN_OR_RETURN(void* const scratch,
                      queue_.Scratch(static_cast<size_t>(work_bytes) + ids.size_bytes()));
  auto* const results = reinterpret_cast<int32_t*>(static_cast<char*>(scratch) + work_bytes);
  const DrawArgs args{.logits = Floats(logits),
                      .draws = std::get<0>(sent),
                      .edits = std::get<1>(sent),
                      .ids = results,
                      .scratch = static_cast<float*>(scratch),
                      .num_draws = Size(draws),
                      .num_edits = Size(edits),
                      .vocab = Int(logits.dim(1)),
                      .unit = WeightUnit(logits.dim(1))};
  M1_RETURN_IF_ERROR(ToStatus(LaunchDraw(args, queue_.target()), "draw_tokens"));
  return queue_.CopyToHost(ids.data(), results, ids.size_bytes());
}

absl::Status CudaKernelBackend::ScoreTokens(ConstTensorView logits,
                                            std::span<const ScoreRequest> requests,
                                            std::span<TokenScore> scores) {
  M1_RETURN_IF_ERROR(ValidateScoreTokens(logits, requests, scores));
  if (requests.empty()) return absl::OkStatus();
  M1_RETURN_IF_ERROR(CheckVocab("score_tokens: logits", logits));
  std::vector<ScoreParams> params;
  int32_t max_candidates = 0;
  for (const ScoreRequest& request : requests) {
    params.push_back({.row = Int(request.row),
                      .id = request.id,
                      .temperature = request.temperature,
                      .lse = request.lse,
                      .candidate_count = request.candidate_count});
    max_candidates = std::max(max_candidates, request.candidate_count);
  }
  if (max_candidates > kMaxScoreCandidates) {
    return absl::UnimplementedError(absl::StrCat("score_tokens: ", max_candidates,
                                                 " candidates, a GPU takes at most ",
                                                 kMaxScoreCandidates));
  }
  const ScoreLayout layout{requests.size(), static_cast<size_t>(max_candidates)};
  std::vector<uint32_t> words(layout.size());
  const size_t bytes = words.size() * sizeof(uint32_t);
  M1_ASSIGN_OR_RETURN(const auto sent, queue_.Put(std::span<const ScoreParams>(params)));
  M1_ASSIGN_OR_RETURN(void* const scratch, queue_.Scratch(bytes));
  auto* const results = static_cast<uint32_t*>(scratch);
  const ScoreArgs args{
      .logits = Floats(logits),
      .requests = std::get<0>(sent),
      .logprobs = reinterpret_cast<float*>(results),
      .ranks = reinterpret_cast<int32_t*>(results + layout.ranks()),
      .candidate_ids = reinterpret_cast<int32_t*>(results + layout.candidate_ids()),
      .candidate_logprobs = reinterpret_cast<float*>(results + layout.candidate_logprobs()),
      .num_requests = Size(requests),
      .max_candidates = max_candidates,
      .vocab = Int(logits.dim(1))};
  M1_RETURN_IF_ERROR(ToStatus(LaunchScore(args, queue_.target()), "score_tokens"));
  M1_RETURN_IF_ERROR(queue_.CopyToHost(words.data(), results, bytes));
  for (size_t i = 0; i < requests.size(); ++i) {
    scores[i] = ScoreAt(words, layout, i, requests[i], logits.dim(1));
  }
  return absl::OkStatus();
}

}  // namespace m1::cuda
