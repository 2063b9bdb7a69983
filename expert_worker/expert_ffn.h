// Runs the hosted experts of one layer over rows of any number of jobs: pairs are sorted by expert,
// rows gathered, one KernelBackend::ExpertFfn call made for many experts, results scattered back to
// the jobs' order. Rows never influence one another, so grouping changes no bit. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"
#include "expert_worker/expert_store.h"

namespace m1 {

class ExpertFfn final : public ExpertExecutor {
 public:
  // Both outlive this. activation_dtype: fp32 or bf16.
  ExpertFfn(const ExpertStore* store, KernelBackend* backend, DType activation_dtype);

  const std::vector<int32_t>& hosted_experts() const override { return store_->experts(); }
  absl::Status Execute(std::span<const ExpertJob> jobs) override;
  absl::Status ValidateJob(const ExpertJob& job) const override;

 private:
  // A pair of one of the jobs.
  struct Item {
    int32_t expert = 0;
    int32_t job = 0;
    int32_t pair = 0;
  };

  // Runs items that are sorted by expert, as many as the scratch memory may hold.
  absl::Status RunSorted(std::span<const ExpertJob> jobs, std::span<const Item> items);
  void GrowScratch(int64_t num_pairs);

  const ExpertStore* const store_;
  KernelBackend* const backend_;
  const DType activation_dtype_;
  Tensor x_, mid_, y_;  // act [capacity, hidden], [capacity, intermediate], [capacity, hidden]
};

}  // namespace m1
