// ForwardPass::WarmUp: the largest steps that a worker may be asked for, one after another.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "attention_worker/forward_pass.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

// As many as a request may ask for.
constexpr int32_t kCandidates = 20;
// Decoding and short prefills go other ways than long ones; each is tried.
constexpr int64_t kFewRows = 32;

// Nobody there: results stay what they were.
class IdleExchange final : public ExpertExchange {
 public:
  absl::Status Dispatch(const DispatchBatch& /*batch*/) override { return absl::OkStatus(); }
  absl::Status Combine(int32_t /*lane*/) override { return absl::OkStatus(); }
  std::vector<int32_t> MissingExperts() const override { return {}; }
  std::vector<ExpertPeer> Peers() const override { return {}; }
  void Shutdown() override {}
};

// A step of sequences that share the KV blocks evenly, each at the end of its context.
class LargeStep {
 public:
  LargeStep(int64_t num_sequences, int64_t rows_of_each, int64_t max_context_tokens,
            int64_t num_kv_blocks)
      : blocks_(static_cast<size_t>(num_kv_blocks)) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
    const int64_t context =
        std::min(max_context_tokens, num_kv_blocks / num_sequences * kKvBlockTokens);
    const int64_t rows = std::min(rows_of_each, context);
    const auto table_size = static_cast<size_t>((context + kKvBlockTokens - 1) / kKvBlockTokens);
    for (int64_t i = 0; i < num_sequences; ++i) {
      batch_.sequences.push_back({.rows = {batch_.num_rows(), rows, context - rows},
                                  .state_slot = static_cast<int32_t>(i),
                                  .block_table = std::span(blocks_).subspan(
                                      static_cast<size_t>(i) * table_size, table_size)});
      for (int64_t position = context - rows; position < context; ++position) {
        batch_.logit_rows.push_back(static_cast<int32_t>(batch_.num_rows()));
        batch_.token_ids.push_back(0);
        batch_.positions.push_back(position);
      }
    }
    batch_.logit_temperatures.assign(batch_.logit_rows.size(), 1.0F);
  }

  const StepBatch& batch() const { return batch_; }

 private:
  std::vector<int32_t> blocks_;
  StepBatch batch_;
};

// Draws from and scores every row in every way. What is not finite has no tokens.
absl::Status Sample(KernelBackend* backend, TensorView logits, std::span<const float> lse) {
  std::vector<TokenDraw> draws;
  std::vector<ScoreRequest> requests;
  for (size_t row = 0; row < lse.size(); ++row) {
    if (!std::isfinite(lse[row])) continue;
    const auto index = static_cast<int64_t>(row);
    draws.push_back({.row = index, .top_k = 40, .top_p = 0.9F, .min_p = 0.01F, .uniform = 0.5});
    requests.push_back({.row = index, .lse = lse[row], .candidate_count = kCandidates});
  }
  std::vector<int32_t> ids(draws.size());
  M1_RETURN_IF_ERROR(backend->DrawTokens(logits, draws, ids));
  std::vector<TokenScore> scores(requests.size());
  return backend->ScoreTokens(logits, requests, scores);
}

}  // namespace

absl::Status ForwardPass::WarmUp(int64_t max_context_tokens) {
  IdleExchange nobody;
  ExpertExchange* const exchange = std::exchange(exchange_, &nobody);
  TraceSink* const trace = std::exchange(trace_, nullptr);  // nobody's time
  const int64_t num_blocks = options_.num_kv_blocks;
  absl::Status status;
  const auto run = [&](int64_t num_sequences, int64_t rows_of_each) {
    if (!status.ok()) return;
    const LargeStep step(num_sequences, rows_of_each, max_context_tokens, num_blocks);
    status = Run(step.batch(), [this](int64_t, TensorView logits, std::span<const float> lse) {
      return Sample(backend_, logits, lse);
    });
  };
  const int64_t num_sequences = std::min({options_.num_state_slots, options_.max_rows, num_blocks});
  run(num_sequences, 1);
  run(num_sequences, options_.max_rows / num_sequences);
  for (int64_t rows = 1; rows < std::min(kFewRows, options_.max_rows); rows *= 2) run(1, rows);
  run(1, options_.max_rows);
  exchange_ = exchange;
  trace_ = trace;
  return status;
}

}  // namespace m1
