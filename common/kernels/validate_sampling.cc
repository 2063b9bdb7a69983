#include <limits>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

absl::Status CheckLogits(absl::string_view what, ConstTensorView logits, size_t num_items,
                         size_t num_results) {
  M1_RETURN_IF_ERROR(CheckDType(what, logits, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank(what, logits, 2));
  if (logits.dim(1) < 1) return absl::InvalidArgumentError(absl::StrCat(what, " have no columns"));
  if (num_items == num_results) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": ", num_results, " results for ", num_items, " rows"));
}

// Written so that NaN fails.
absl::Status CheckDraw(const TokenDraw& draw, int64_t vocab) {
  const bool is_in_range = draw.temperature >= 0.0f && draw.top_k >= 0 && draw.top_p > 0.0f &&
                           draw.top_p <= 1.0f && draw.min_p >= 0.0f && draw.min_p <= 1.0f &&
                           draw.uniform >= 0.0 && draw.uniform < 1.0;
  if (!is_in_range) {
    return absl::InvalidArgumentError(
        absl::StrCat("draw_tokens: temperature ", draw.temperature, ", top_k ", draw.top_k,
                     ", top_p ", draw.top_p, ", min_p ", draw.min_p, ", uniform ", draw.uniform));
  }
  for (const LogitEdit& edit : draw.edits) {
    M1_RETURN_IF_ERROR(CheckIndex("draw_tokens: edited id", edit.id, vocab));
    if (!(edit.penalty > 0.0f && edit.offset < std::numeric_limits<float>::infinity())) {
      return absl::InvalidArgumentError(absl::StrCat("draw_tokens: id ", edit.id, " with penalty ",
                                                     edit.penalty, " and offset ", edit.offset));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateLogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                               std::span<const float> lse) {
  M1_RETURN_IF_ERROR(CheckDType("log_sum_exp: logits", logits, DType::kF32));
  M1_RETURN_IF_ERROR(CheckRank("log_sum_exp: logits", logits, 2));
  const auto rows = static_cast<size_t>(logits.dim(0));
  if (temperatures.size() != rows || lse.size() != rows) {
    return absl::InvalidArgumentError(absl::StrCat("log_sum_exp: ", temperatures.size(),
                                                   " temperatures and ", lse.size(),
                                                   " results for ", rows, " rows"));
  }
  for (size_t row = 0; row < temperatures.size(); ++row) {
    if (!(temperatures[row] > 0.0f)) {
      return absl::InvalidArgumentError(absl::StrCat("log_sum_exp: temperature ", temperatures[row],
                                                     " of row ", row, " is not > 0"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateDrawTokens(ConstTensorView logits, std::span<const TokenDraw> draws,
                                std::span<const int32_t> ids) {
  M1_RETURN_IF_ERROR(CheckLogits("draw_tokens: logits", logits, draws.size(), ids.size()));
  int64_t last_row = -1;
  for (const TokenDraw& draw : draws) {
    M1_RETURN_IF_ERROR(CheckIndex("draw_tokens: row", draw.row, logits.dim(0)));
    if (draw.row <= last_row) {
      return absl::InvalidArgumentError(
          absl::StrCat("draw_tokens: row ", draw.row, " after row ", last_row));
    }
    last_row = draw.row;
    M1_RETURN_IF_ERROR(CheckDraw(draw, logits.dim(1)));
  }
  return absl::OkStatus();
}

absl::Status ValidateScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                                 std::span<const TokenScore> scores) {
  M1_RETURN_IF_ERROR(CheckLogits("score_tokens: logits", logits, requests.size(), scores.size()));
  for (const ScoreRequest& request : requests) {
    M1_RETURN_IF_ERROR(CheckIndex("score_tokens: row", request.row, logits.dim(0)));
    M1_RETURN_IF_ERROR(CheckIndex("score_tokens: id", request.id, logits.dim(1)));
    if (!(request.temperature > 0.0f) || request.candidate_count < 0) {
      return absl::InvalidArgumentError(absl::StrCat("score_tokens: temperature ",
                                                     request.temperature, ", candidate_count ",
                                                     request.candidate_count));
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
