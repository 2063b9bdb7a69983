#include "common/exchange/inproc_exchange.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/status_macros.h"
#include "common/exchange/dispatch_ledger.h"
#include "common/tensor/tensor.h"

namespace m1 {

InprocExchange::InprocExchange(int32_t num_experts, std::vector<ExpertExecutor*> executors)
    : executors_(std::move(executors)), directory_(num_experts, absl::UnixEpoch()) {
  for (size_t i = 0; i < executors_.size(); ++i) {
    directory_.Add(static_cast<PeerId>(i), executors_[i]->hosted_experts());
  }
}

absl::Status InprocExchange::Dispatch(const DispatchBatch& batch) {
  M1_RETURN_IF_ERROR(ValidateDispatch(batch, directory_.num_experts()));
  batches_[static_cast<size_t>(batch.lane)] = batch;
  return absl::OkStatus();
}

absl::Status InprocExchange::Combine(int32_t lane) {
  const DispatchBatch batch = std::exchange(batches_[static_cast<size_t>(lane)], DispatchBatch());
  if (shut_down_) return absl::CancelledError("the exchange was shut down");
  std::vector<int32_t> missing;
  for (const int32_t expert : batch.expert_ids) {
    if (directory_.hosts(expert).empty()) missing.push_back(expert);
  }
  if (!missing.empty()) {
    return absl::UnavailableError(
        absl::StrCat("experts ", absl::StrJoin(missing, ","), " have no host"));
  }
  for (size_t i = 0; i < executors_.size(); ++i) M1_RETURN_IF_ERROR(Run(i, batch));
  return absl::OkStatus();
}

absl::Status InprocExchange::Run(size_t executor_index, const DispatchBatch& batch) {
  std::vector<RowExpert> pairs;
  std::vector<int32_t> out_indices;
  for (size_t i = 0; i < batch.expert_ids.size(); ++i) {
    const int32_t expert = batch.expert_ids[i];
    if (directory_.hosts(expert).front() != static_cast<PeerId>(executor_index)) continue;
    const int32_t out_index = static_cast<int32_t>(i);
    pairs.push_back({out_index / batch.experts_per_row, expert});
    out_indices.push_back(out_index);
  }
  if (pairs.empty()) return absl::OkStatus();
  const int64_t hidden = batch.rows.dim(1);
  const Shape shape = {static_cast<int64_t>(pairs.size()), hidden};
  const bool is_all = pairs.size() == batch.expert_ids.size();  // and in their order
  Tensor part(batch.rows.dtype(), is_all ? Shape{0, hidden} : shape);
  const TensorView out = is_all ? batch.out.Reshape(shape) : part.view();
  const ExpertJob job = {batch.layer, batch.rows, pairs, out};
  ExpertExecutor& executor = *executors_[executor_index];
  M1_RETURN_IF_ERROR(executor.ValidateJob(job));
  M1_RETURN_IF_ERROR(executor.Execute({&job, 1}));
  if (is_all) return absl::OkStatus();
  const int64_t row_bytes = hidden * DTypeBytes(out.dtype());
  auto* to = static_cast<std::byte*>(batch.out.data());
  const auto* from = static_cast<const std::byte*>(out.data());
  for (size_t i = 0; i < out_indices.size(); ++i) {
    std::memcpy(to + out_indices[i] * row_bytes, from + static_cast<int64_t>(i) * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return absl::OkStatus();
}

std::vector<ExpertPeer> InprocExchange::Peers() const {
  std::vector<ExpertPeer> peers;
  for (const ExpertExecutor* executor : executors_) {
    peers.push_back({absl::StrCat("inproc:", peers.size()), true, executor->hosted_experts(), ""});
  }
  return peers;
}

}  // namespace m1
