// ExpertExchange over executors in the same process: for tests, for `--expert_workers inproc`, and
// as the baseline of the other transports. Rows are exchanged in the activation type, as on the
// wire, so the bits are equal.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/exchange/exchange.h"
#include "common/exchange/expert_directory.h"

namespace m1 {

class InprocExchange final : public ExpertExchange {
 public:
  // The executors outlive the exchange and are called by the thread that calls Combine. Several may
  // host one expert.
  InprocExchange(int32_t num_experts, std::vector<ExpertExecutor*> executors);

  absl::Status Dispatch(const DispatchBatch& batch) override;
  // Errors: Unavailable naming experts that no executor hosts; Cancelled after Shutdown; as
  // Execute.
  absl::Status Combine(int32_t lane) override;
  std::vector<int32_t> MissingExperts() const override { return directory_.Missing(); }
  std::vector<ExpertPeer> Peers() const override;
  void Shutdown() override { shut_down_ = true; }

 private:
  absl::Status Run(size_t executor_index, const DispatchBatch& batch);

  const std::vector<ExpertExecutor*> executors_;
  ExpertDirectory directory_;  // a peer's id is its index in executors_; constant
  std::array<DispatchBatch, kExchangeLanes> batches_;
  std::atomic<bool> shut_down_ = false;
};

}  // namespace m1
