#include "common/exchange/inproc_exchange.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/status_macros.h"
#include "common/exchange/dispatch_ledger.h"

namespace m1 {

InprocExchange::InprocExchange(int32_t num_experts, std::vector<ExpertExecutor*> executors)
    : executors_(std::move(executors)), directory_(num_experts, absl::UnixEpoch()) {
  for (size_t i = 0; i < executors_.size(); ++i) {
    directory_.Add(static_cast<PeerId>(i), executors_[i]->hosted_experts());
  }
}

absl::Status InprocExchange::Dispatch(const DispatchBatch& batch) {
  M1_RETURN_IF_ERROR(ValidateDispatch(batch, directory_.num_experts()));
  if (batch.device != nullptr) M1_RETURN_IF_ERROR(batch.device->FetchRows());
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
  std::vector<int32_t> out_rows;
  for (size_t i = 0; i < batch.expert_ids.size(); ++i) {
    const int32_t expert = batch.expert_ids[i];
    if (directory_.hosts(expert).front() != static_cast<PeerId>(executor_index)) continue;
    const auto out_row = static_cast<int32_t>(i);
    pairs.push_back({out_row / batch.experts_per_row, expert});
    out_rows.push_back(out_row);
  }
  if (pairs.empty()) return absl::OkStatus();
  const TensorView out =
      batch.out.Reshape({static_cast<int64_t>(batch.expert_ids.size()), batch.rows.dim(1)});
  const ExpertJob job = {batch.layer, batch.rows, pairs, out, out_rows};
  ExpertExecutor& executor = *executors_[executor_index];
  M1_RETURN_IF_ERROR(executor.ValidateJob(job));
  return executor.Execute({&job, 1});
}

std::vector<ExpertPeer> InprocExchange::Peers() const {
  std::vector<ExpertPeer> peers;
  for (const ExpertExecutor* executor : executors_) {
    peers.push_back({absl::StrCat("inproc:", peers.size()), true, executor->hosted_experts(), ""});
  }
  return peers;
}

}  // namespace m1
