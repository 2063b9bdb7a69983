// Between a backend whose memory is not the host's and an exchange that moves rows of the host's.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"

namespace m1 {

// Attention side: rows come down for a dispatch, results go up when they are combined.
class StagedExchange final : public ExpertExchange {
 public:
  // `backend` and `exchange` outlive this.
  StagedExchange(KernelBackend* backend, ExpertExchange* exchange)
      : backend_(backend), exchange_(exchange) {}

  // batch.rows and batch.out lie in the backend's memory.
  absl::Status Dispatch(const DispatchBatch& batch) override;
  absl::Status Combine(int32_t lane) override;
  std::vector<int32_t> MissingExperts() const override { return exchange_->MissingExperts(); }
  std::vector<ExpertPeer> Peers() const override { return exchange_->Peers(); }
  void Shutdown() override { exchange_->Shutdown(); }

 private:
  struct Lane {
    Tensor rows;
    Tensor out;
    TensorView host_out;    // of the dispatch
    TensorView device_out;  // where it goes
  };

  KernelBackend* const backend_;
  ExpertExchange* const exchange_;
  std::array<Lane, kExchangeLanes> lanes_;
};

// Expert side: jobs of the host's memory for an executor in a backend's.
class StagedExecutor final : public ExpertExecutor {
 public:
  // Both outlive this.
  StagedExecutor(KernelBackend* backend, ExpertExecutor* executor)
      : backend_(backend), executor_(executor) {}

  const std::vector<int32_t>& hosted_experts() const override {
    return executor_->hosted_experts();
  }
  // Jobs without out_rows.
  absl::Status Execute(std::span<const ExpertJob> jobs) override;
  absl::Status ValidateJob(const ExpertJob& job) const override;

 private:
  KernelBackend* const backend_;
  ExpertExecutor* const executor_;
  Tensor rows_;
  Tensor out_;
};

}  // namespace m1
