// Runs the hosted experts of one layer over rows of any number of jobs: pairs are sorted by expert,
// rows gathered, one KernelBackend::ExpertFfn call made for many experts, results scattered back to
// the jobs' order. Rows never influence one another, so grouping changes no bit. Thread-compatible.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"

#include "common/exchange/exchange.h"
#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"
#include "expert_worker/expert_store.h"

namespace m1 {

// Rows that an expert of a layer has computed.
struct ExpertLoad {
  int32_t layer = 0;
  int32_t expert = 0;
  int64_t num_rows = 0;
};

class ExpertFfn final : public ExpertExecutor {
 public:
  // Both outlive this. activation_dtype: fp32 or bf16.
  ExpertFfn(const ExpertStore* store, KernelBackend* backend, DType activation_dtype);

  const std::vector<int32_t>& hosted_experts() const override { return store_->experts(); }
  absl::Status Execute(std::span<const ExpertJob> jobs) override;
  absl::Status ValidateJob(const ExpertJob& job) const override;
  // Takes the memory for runs of so many pairs, and of as many as a run may have; counts nothing.
  absl::Status WarmUp(int64_t num_pairs);

  // Since the start, for every layer and hosted expert; thread-safe.
  std::vector<ExpertLoad> Loads() const;
  // Time of the device spent in each hosted expert: that of a run goes to its experts by their
  // rows, once the device is done and the next run begins. Thread-safe.
  std::vector<std::pair<int32_t, absl::Duration>> ComputeTimes() const;

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
  // Rows of a hosted expert, by its place among them.
  struct ComputedRows {
    size_t place = 0;
    int64_t num_rows = 0;
  };
  // `groups`: of the sorted items, each of one expert.
  std::vector<ComputedRows> CountRows(int32_t layer, std::span<const Item> items,
                                      std::span<const ExpertGroup> groups);
  void CountTime(std::span<const ComputedRows> experts, absl::Duration time);

  const ExpertStore* const store_;
  KernelBackend* const backend_;
  const DType activation_dtype_;
  const std::unique_ptr<DeviceTimer> timer_;
  // Of layer l and the hosted expert i at l * number of hosted ones + i.
  std::vector<std::atomic<int64_t>> rows_;
  std::vector<std::atomic<int64_t>> nanoseconds_;  // by hosted expert
  Tensor x_, mid_, y_;  // act [capacity, hidden], [capacity, intermediate], [capacity, hidden]
};

}  // namespace m1
