#include "common/exchange/dispatch_ledger.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr PeerId kNoPeer = -1;

}  // namespace

absl::Status ValidateDispatch(const DispatchBatch& batch, int32_t num_experts) {
  if (batch.lane < 0 || batch.lane >= kExchangeLanes) {
    return absl::InvalidArgumentError(
        absl::StrCat("lane ", batch.lane, ", there are ", kExchangeLanes));
  }
  const ConstTensorView& rows = batch.rows;
  if (rows.rank() != 2 || (rows.dtype() != DType::kF32 && rows.dtype() != DType::kBf16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows are ", std::string(DTypeName(rows.dtype())), " ",
                     rows.shape().ToString(), ", want fp32 or bf16 [num_rows, hidden]"));
  }
  const Shape wanted = {rows.dim(0), batch.experts_per_row, rows.dim(1)};
  if (batch.out.dtype() != rows.dtype() || !(batch.out.shape() == wanted)) {
    return absl::InvalidArgumentError(absl::StrCat("out is ", batch.out.shape().ToString(),
                                                   ", want ", wanted.ToString(),
                                                   " of the rows' dtype"));
  }
  const size_t num_pairs = static_cast<size_t>(rows.dim(0) * batch.experts_per_row);
  if (batch.expert_ids.size() != num_pairs) {
    return absl::InvalidArgumentError(
        absl::StrCat(batch.expert_ids.size(), " expert ids, want ", num_pairs));
  }
  for (const int32_t expert : batch.expert_ids) {
    if (expert < 0 || expert >= num_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", expert, ", the model has ", num_experts));
    }
  }
  return absl::OkStatus();
}

void DispatchLedger::Begin(const DispatchBatch& batch) {
  Clear();
  batch_ = batch;
  waiting_.resize(batch.expert_ids.size());
  std::iota(waiting_.begin(), waiting_.end(), 0);
  num_open_pairs_ = static_cast<int64_t>(waiting_.size());
}

void DispatchLedger::Clear() {
  batch_ = DispatchBatch();
  num_open_pairs_ = 0;
  waiting_.clear();
  shipments_.clear();
  num_losses_ = 0;
}

ExpertShipment* DispatchLedger::NewShipment(PeerId peer, size_t most_pairs) {
  const uint64_t id = next_id_;
  next_id_ += id_step_;
  ExpertShipment& shipment = shipments_[id];
  shipment.id = id;
  shipment.peer = peer;
  shipment.row_indices.reserve(most_pairs);
  shipment.pairs.reserve(most_pairs);
  shipment.out_indices.reserve(most_pairs);
  return &shipment;
}

std::vector<const ExpertShipment*> DispatchLedger::Assign(
    const ExpertDirectory& directory, const std::function<int32_t(PeerId)>& max_rows) {
  if (waiting_.empty()) return {};
  const size_t num_experts = static_cast<size_t>(directory.num_experts());
  std::vector<int32_t> num_pairs(num_experts, 0);
  for (const int32_t out_index : waiting_) {
    ++num_pairs[static_cast<size_t>(batch_.expert_ids[static_cast<size_t>(out_index)])];
  }
  std::map<PeerId, int32_t> load;
  std::vector<PeerId> host_of(num_experts, kNoPeer);
  for (size_t expert = 0; expert < num_experts; ++expert) {
    const std::vector<PeerId>& hosts = directory.hosts(static_cast<int32_t>(expert));
    if (num_pairs[expert] == 0 || hosts.empty()) continue;
    host_of[expert] = *std::min_element(hosts.begin(), hosts.end(),
                                        [&load](PeerId a, PeerId b) { return load[a] < load[b]; });
    load[host_of[expert]] += num_pairs[expert];
  }

  std::vector<const ExpertShipment*> shipments;
  struct Open {
    ExpertShipment* shipment = nullptr;
    size_t max_rows = 0;
  };
  std::map<PeerId, Open> open;
  std::vector<int32_t> still_waiting;
  for (const int32_t out_index : waiting_) {
    const int32_t expert = batch_.expert_ids[static_cast<size_t>(out_index)];
    const PeerId peer = host_of[static_cast<size_t>(expert)];
    if (peer == kNoPeer) {
      still_waiting.push_back(out_index);
      continue;
    }
    const int32_t row = out_index / batch_.experts_per_row;
    auto& [shipment, most_rows] = open[peer];
    const bool new_row = shipment == nullptr || shipment->row_indices.back() != row;
    if (shipment == nullptr || (new_row && shipment->row_indices.size() >= most_rows)) {
      most_rows = static_cast<size_t>(max_rows(peer));
      shipment = NewShipment(peer, static_cast<size_t>(load[peer]));
      shipments.push_back(shipment);
    }
    if (new_row) shipment->row_indices.push_back(row);
    shipment->pairs.push_back({static_cast<int32_t>(shipment->row_indices.size()) - 1, expert});
    shipment->out_indices.push_back(out_index);
  }
  waiting_ = std::move(still_waiting);
  return shipments;
}

absl::StatusOr<bool> DispatchLedger::Complete(PeerId peer, const FrameHeader& header,
                                              ByteChunks* body) {
  auto* rows = static_cast<std::byte*>(batch_.out.data());
  return Complete(peer, header, [&](std::span<const int32_t> out_indices) -> absl::Status {
    for (const int32_t out_index : out_indices) {
      if (!body->Read(rows + out_index * header.row_bytes(), header.row_bytes())) {
        return absl::InvalidArgumentError("answer is shorter than its header says");
      }
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> DispatchLedger::Complete(PeerId peer, const FrameHeader& header,
                                              const TakeRows& take) {
  if (!IsOpen(peer, header.id)) return false;
  const auto found = shipments_.find(header.id);
  const ExpertShipment& shipment = found->second;
  const TensorView& out = batch_.out;
  if (header.kind != FrameKind::kCombine || header.dtype != out.dtype() ||
      header.layer != batch_.layer || header.hidden != out.dim(2) ||
      header.num_pairs != static_cast<int32_t>(shipment.pairs.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "answer of layer ", header.layer, ", ", header.num_pairs, " rows of ", header.hidden, " ",
        std::string(DTypeName(header.dtype)), "; want layer ", batch_.layer, ", ",
        shipment.pairs.size(), " rows of ", out.dim(2), " ", std::string(DTypeName(out.dtype()))));
  }
  M1_RETURN_IF_ERROR(take(shipment.out_indices));
  num_open_pairs_ -= static_cast<int64_t>(shipment.pairs.size());
  shipments_.erase(found);
  return true;
}

bool DispatchLedger::IsOpen(PeerId peer, uint64_t id) const {
  const auto found = shipments_.find(id);
  return found != shipments_.end() && found->second.peer == peer;
}

void DispatchLedger::Return(uint64_t id) {
  const auto found = shipments_.find(id);
  if (found == shipments_.end()) return;
  const std::vector<int32_t>& returned = found->second.out_indices;
  waiting_.insert(waiting_.end(), returned.begin(), returned.end());
  std::sort(waiting_.begin(), waiting_.end());
  shipments_.erase(found);
}

void DispatchLedger::PeerLost(PeerId peer) {
  std::vector<uint64_t> lost;
  for (const auto& [id, shipment] : shipments_) {
    if (shipment.peer == peer) lost.push_back(id);
  }
  for (const uint64_t id : lost) Return(id);
  if (!lost.empty()) ++num_losses_;
}

std::vector<int32_t> DispatchLedger::WaitingExperts() const {
  std::vector<int32_t> experts;
  for (const int32_t out_index : waiting_) {
    experts.push_back(batch_.expert_ids[static_cast<size_t>(out_index)]);
  }
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  return experts;
}

}  // namespace m1
