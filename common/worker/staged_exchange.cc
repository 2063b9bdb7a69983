#include "common/worker/staged_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

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

auto HostTensors(KernelBackend* backend) {
  return
      [backend](DType dtype, const Shape& shape) { return backend->NewHostTensor(dtype, shape); };
}

auto DeviceTensors(KernelBackend* backend) {
  return [backend](DType dtype, const Shape& shape) { return backend->NewTensor(dtype, shape); };
}

}  // namespace

void StagedExchange::Reserve(DType dtype, int64_t max_rows, int64_t experts_per_row,
                             int64_t hidden) {
  for (Lane& lane : lanes_) lane.Reserve(dtype, max_rows, max_rows * experts_per_row, hidden);
}

absl::Status StagedExchange::Dispatch(const DispatchBatch& batch) {
  return exchange_->Dispatch(lanes_[static_cast<size_t>(batch.lane)].Stage(batch));
}

absl::Status StagedExchange::Combine(int32_t lane) {
  M1_RETURN_IF_ERROR(exchange_->Combine(lane));
  return lanes_[static_cast<size_t>(lane)].Finish();
}

void StagedExchange::Lane::Reserve(DType dtype, int64_t num_rows, int64_t num_pairs,
                                   int64_t hidden) {
  GrownRows(&rows_tensor_, dtype, num_rows, hidden, HostTensors(backend_));
  GrownRows(&out_tensor_, dtype, num_pairs, hidden, HostTensors(backend_));
}

DispatchBatch StagedExchange::Lane::Stage(const DispatchBatch& batch) {
  const DType dtype = batch.rows.dtype();
  const int64_t hidden = batch.rows.dim(1);
  const auto num_pairs = static_cast<int64_t>(batch.expert_ids.size());
  rows_ = batch.rows;
  out_ = batch.out;
  Reserve(dtype, batch.rows.dim(0), num_pairs, hidden);
  host_rows_ = rows_tensor_.view().Rows(0, batch.rows.dim(0));
  host_out_ = out_tensor_.view().Rows(0, num_pairs);
  is_fetched_ = false;
  is_on_device_.clear();
  DispatchBatch staged = batch;
  staged.rows = host_rows_;
  staged.out = host_out_.Reshape(batch.out.shape());
  staged.device = this;
  return staged;
}

absl::Status StagedExchange::Lane::FetchRows() {
  if (std::exchange(is_fetched_, true)) return absl::OkStatus();
  return backend_->Download(rows_, host_rows_);
}

void StagedExchange::Lane::OnDeviceRows(std::span<const int32_t> out_indices) {
  is_on_device_.resize(static_cast<size_t>(host_out_.dim(0)), false);
  for (const int32_t index : out_indices) is_on_device_[static_cast<size_t>(index)] = true;
}

absl::Status StagedExchange::Lane::Finish() {
  if (is_on_device_.empty()) return backend_->Upload(host_out_.Reshape(out_.shape()), out_);
  std::vector<int32_t> indices;
  for (size_t i = 0; i < is_on_device_.size(); ++i) {
    if (!is_on_device_[i]) indices.push_back(static_cast<int32_t>(i));
  }
  if (indices.empty()) return absl::OkStatus();
  const auto count = static_cast<int64_t>(indices.size());
  const DType dtype = host_out_.dtype();
  const int64_t hidden = host_out_.dim(1);
  const int64_t row_bytes = hidden * DTypeBytes(dtype);
  const TensorView packed = GrownRows(&packed_, dtype, count, hidden, HostTensors(backend_));
  const TensorView uploaded = GrownRows(&uploaded_, dtype, count, hidden, DeviceTensors(backend_));
  const auto* from = static_cast<const std::byte*>(host_out_.data());
  auto* to = static_cast<std::byte*>(packed.data());
  for (const int32_t index : indices) {
    std::memcpy(to, from + index * row_bytes, static_cast<size_t>(row_bytes));
    to += row_bytes;
  }
  M1_RETURN_IF_ERROR(backend_->Upload(packed, uploaded));
  std::vector<int32_t> iota(indices.size());
  std::iota(iota.begin(), iota.end(), 0);
  return backend_->CopyRows(uploaded, iota, out_.Reshape(host_out_.shape()), indices);
}

void StagedExecutor::Reserve(DType dtype, int64_t max_rows, int64_t max_pairs, int64_t hidden) {
  GrownRows(&rows_, dtype, max_rows, hidden, DeviceTensors(backend_));
  GrownRows(&out_, dtype, max_pairs, hidden, DeviceTensors(backend_));
}

absl::Status StagedExecutor::ValidateJob(const ExpertJob& job) const {
  if (!job.out_rows.empty() && !job.is_on_device) {
    return absl::InvalidArgumentError("a job of the host's memory with rows of out");
  }
  return executor_->ValidateJob(job);
}

absl::Status StagedExecutor::Execute(std::span<const ExpertJob> jobs) {
  int64_t num_rows = 0;
  int64_t num_pairs = 0;
  const ExpertJob* first = nullptr;
  for (const ExpertJob& job : jobs) {
    if (job.is_on_device) continue;
    if (first == nullptr) first = &job;
    num_rows += job.rows.dim(0);
    num_pairs += job.out.dim(0);
  }
  if (first == nullptr) return jobs.empty() ? absl::OkStatus() : executor_->Execute(jobs);
  const DType dtype = first->rows.dtype();
  const int64_t hidden = first->rows.dim(1);
  const TensorView rows = GrownRows(&rows_, dtype, num_rows, hidden, DeviceTensors(backend_));
  const TensorView out = GrownRows(&out_, dtype, num_pairs, hidden, DeviceTensors(backend_));
  std::vector<ExpertJob> staged(jobs.begin(), jobs.end());
  int64_t first_row = 0;
  int64_t first_pair = 0;
  for (ExpertJob& job : staged) {
    if (job.is_on_device) continue;
    const ConstTensorView host_rows = job.rows;
    job.rows = rows.Rows(first_row, host_rows.dim(0));
    M1_RETURN_IF_ERROR(backend_->Upload(host_rows, rows.Rows(first_row, host_rows.dim(0))));
    first_row += host_rows.dim(0);
    job.out = out.Rows(first_pair, job.out.dim(0));
    first_pair += job.out.dim(0);
  }
  M1_RETURN_IF_ERROR(executor_->Execute(staged));
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].is_on_device) continue;
    M1_RETURN_IF_ERROR(backend_->Download(staged[i].out, jobs[i].out));
  }
  return absl::OkStatus();
}

}  // namespace m1
