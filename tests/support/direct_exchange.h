// The plainest exchange: every (row, expert) pair alone, in this thread. What transports and
// grouping must equal.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "common/base/status_macros.h"
#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/model/checkpoint.h"

namespace m1 {

class DirectExchange final : public ExpertExchange {
 public:
  explicit DirectExchange(const Checkpoint* checkpoint)
      : checkpoint_(checkpoint), backend_(CreateReferenceBackend()) {}

  absl::Status Dispatch(const DispatchBatch& batch) override {
    const int64_t hidden = batch.rows.dim(1);
    const Shape one_row{1, hidden};
    Tensor mid(batch.rows.dtype(), {1, checkpoint_->config().expert_intermediate_size});
    for (int64_t row = 0; row < batch.rows.dim(0); ++row) {
      for (int32_t k = 0; k < batch.experts_per_row; ++k) {
        const int32_t expert =
            batch.expert_ids[static_cast<size_t>(row * batch.experts_per_row + k)];
        const ExpertWeights weights = checkpoint_->expert_weights(batch.layer, expert);
        const ExpertGroup group{0, 1, weights.w1, weights.w2, weights.w3};
        M1_RETURN_IF_ERROR(backend_->ExpertFfn(batch.rows.Rows(row, 1), {&group, 1}, mid.view(),
                                               batch.out[row][k].Reshape(one_row)));
      }
    }
    return absl::OkStatus();
  }
  absl::Status Combine(int32_t /*lane*/) override { return absl::OkStatus(); }
  std::vector<int32_t> MissingExperts() const override { return {}; }
  std::vector<ExpertPeer> Peers() const override { return {}; }
  void Shutdown() override {}

 private:
  const Checkpoint* checkpoint_;
  std::unique_ptr<KernelBackend> backend_;
};

}  // namespace m1
