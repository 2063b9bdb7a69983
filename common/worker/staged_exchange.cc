#include "common/worker/staged_exchange.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace m1 {
namespace {

// The first `rows` rows of `tensor`, which grows by `make` where it has fewer.
template <typename Make>
TensorView GrownRows(Tensor* tensor, DType dtype, int64_t rows, int64_t hidden, Make make) {
  const int64_t capacity = tensor->shape().rank() == 0 ? 0 : tensor->shape()[0];
  if (rows > capacity) *tensor = make(dtype, Shape{std::max(rows, 2 * capacity), hidden});
  return tensor->view().Rows(0, rows);
}

Tensor HostTensor(DType dtype, const Shape& shape) { return {dtype, shape}; }

}  // namespace

absl::Status StagedExchange::Dispatch(const DispatchBatch& batch) {
  Lane& lane = lanes_[static_cast<size_t>(batch.lane)];
  const DType dtype = batch.rows.dtype();
  const int64_t hidden = batch.rows.dim(1);
  const auto num_pairs = static_cast<int64_t>(batch.expert_ids.size());
  const TensorView rows = GrownRows(&lane.rows, dtype, batch.rows.dim(0), hidden, HostTensor);
  const TensorView out = GrownRows(&lane.out, dtype, num_pairs, hidden, HostTensor);
  M1_RETURN_IF_ERROR(backend_->Download(batch.rows, rows));
  lane.host_out = out.Reshape(batch.out.shape());
  lane.device_out = batch.out;
  DispatchBatch staged = batch;
  staged.rows = rows;
  staged.out = lane.host_out;
  return exchange_->Dispatch(staged);
}

absl::Status StagedExchange::Combine(int32_t lane) {
  M1_RETURN_IF_ERROR(exchange_->Combine(lane));
  const Lane& staged = lanes_[static_cast<size_t>(lane)];
  return backend_->Upload(staged.host_out, staged.device_out);
}

absl::Status StagedExecutor::ValidateJob(const ExpertJob& job) const {
  if (!job.out_rows.empty()) {
    return absl::InvalidArgumentError("a job of the host's memory with rows of out");
  }
  return executor_->ValidateJob(job);
}

absl::Status StagedExecutor::Execute(std::span<const ExpertJob> jobs) {
  if (jobs.empty()) return absl::OkStatus();
  int64_t num_rows = 0;
  int64_t num_pairs = 0;
  for (const ExpertJob& job : jobs) {
    num_rows += job.rows.dim(0);
    num_pairs += job.out.dim(0);
  }
  const DType dtype = jobs[0].rows.dtype();
  const int64_t hidden = jobs[0].rows.dim(1);
  const auto make = [this](DType type, const Shape& shape) {
    return backend_->NewTensor(type, shape);
  };
  const TensorView rows = GrownRows(&rows_, dtype, num_rows, hidden, make);
  const TensorView out = GrownRows(&out_, dtype, num_pairs, hidden, make);
  std::vector<ExpertJob> staged(jobs.begin(), jobs.end());
  int64_t first_row = 0;
  int64_t first_pair = 0;
  for (ExpertJob& job : staged) {
    const ConstTensorView host_rows = job.rows;
    job.rows = rows.Rows(first_row, host_rows.dim(0));
    M1_RETURN_IF_ERROR(backend_->Upload(host_rows, rows.Rows(first_row, host_rows.dim(0))));
    first_row += host_rows.dim(0);
    job.out = out.Rows(first_pair, job.out.dim(0));
    first_pair += job.out.dim(0);
  }
  M1_RETURN_IF_ERROR(executor_->Execute(staged));
  for (size_t i = 0; i < jobs.size(); ++i) {
    M1_RETURN_IF_ERROR(backend_->Download(staged[i].out, jobs[i].out));
  }
  return absl::OkStatus();
}

}  // namespace m1
