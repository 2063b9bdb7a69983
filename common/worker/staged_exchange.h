// Between a backend whose memory is not the host's and an exchange that moves rows of the host's.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"

namespace m1 {

// Attention side: rows come down for a dispatch where the exchange wants them in the host's memory,
// and results that it leaves there go up when they are combined.
class StagedExchange final : public ExpertExchange {
 public:
  // `backend` and `exchange` outlive this.
  StagedExchange(KernelBackend* backend, ExpertExchange* exchange)
      : exchange_(exchange), lanes_{Lane(backend), Lane(backend)} {}

  // Takes the memory for batches of so many rows.
  void Reserve(DType dtype, int64_t max_rows, int64_t experts_per_row, int64_t hidden);
  // batch.rows and batch.out lie in the backend's memory.
  absl::Status Dispatch(const DispatchBatch& batch) override;
  absl::Status Combine(int32_t lane) override;
  std::vector<int32_t> MissingExperts() const override { return exchange_->MissingExperts(); }
  std::vector<ExpertPeer> Peers() const override { return exchange_->Peers(); }
  void Shutdown() override { exchange_->Shutdown(); }

 private:
  // The batch of one lane in both memories.
  class Lane final : public DeviceBatch {
   public:
    explicit Lane(KernelBackend* backend) : backend_(backend) {}

    void Reserve(DType dtype, int64_t num_rows, int64_t num_pairs, int64_t hidden);
    // The same batch in the host's memory, with this as its original.
    DispatchBatch Stage(const DispatchBatch& batch);
    // Brings up what came into the host's memory.
    absl::Status Finish();

    ConstTensorView rows() const override { return rows_; }
    TensorView out() const override { return out_; }
    absl::Status FetchRows() override;
    void OnDeviceRows(std::span<const int32_t> out_indices) override;

   private:
    KernelBackend* backend_;
    ConstTensorView rows_;
    TensorView out_;
    TensorView host_rows_;  // of the tensors below
    TensorView host_out_;
    bool is_fetched_ = false;
    std::vector<bool> is_on_device_;  // of each row of out; empty: none is
    Tensor rows_tensor_, out_tensor_;
    Tensor packed_,
        uploaded_;  // rows of out that are not on the device: of the host, of the device
  };

  ExpertExchange* const exchange_;
  std::array<Lane, kExchangeLanes> lanes_;
};

// Expert side: jobs of the host's memory for an executor in a backend's.
class StagedExecutor final : public ExpertExecutor {
 public:
  // Both outlive this.
  StagedExecutor(KernelBackend* backend, ExpertExecutor* executor)
      : backend_(backend), executor_(executor) {}

  // Takes the memory for jobs of so many rows and pairs, together.
  void Reserve(DType dtype, int64_t max_rows, int64_t max_pairs, int64_t hidden);
  const std::vector<int32_t>& hosted_experts() const override {
    return executor_->hosted_experts();
  }
  // Jobs without out_rows. Those that are on the device already are left there.
  absl::Status Execute(std::span<const ExpertJob> jobs) override;
  absl::Status ValidateJob(const ExpertJob& job) const override;

 private:
  KernelBackend* const backend_;
  ExpertExecutor* const executor_;
  Tensor rows_;
  Tensor out_;
};

}  // namespace m1
