#include "common/rpc/grpc_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

#include "common/base/status_macros.h"
#include "common/exchange/frame.h"
#include "common/rpc/exchange_message.h"

namespace m1 {
namespace {

// The keeper leaves the queue alone for so long after the last use.
constexpr absl::Duration kIdleTime = absl::Milliseconds(50);
// Longest wait in the queue, so that new addresses and peers are noticed.
constexpr absl::Duration kMaxWait = absl::Milliseconds(20);
// After a worker's queue was full.
constexpr absl::Duration kRefusedDelay = absl::Milliseconds(5);
// Rows that cost so many workers their connection are given up.
constexpr int32_t kMaxLosses = 20;

}  // namespace

class GrpcExchange::WakeTag final : public CompletionTag {
 public:
  explicit WakeTag(bool* set) : set_(set) {}
  void Complete(bool) override { *set_ = false; }

 private:
  bool* const set_;
};

absl::StatusOr<std::unique_ptr<GrpcExchange>> GrpcExchange::Create(
    const GrpcExchangeOptions& options) {
  if (options.addresses.empty()) return absl::InvalidArgumentError("no expert worker addresses");
  if (options.peer.num_experts < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_experts is ", options.peer.num_experts, ", want at least 1"));
  }
  return std::unique_ptr<GrpcExchange>(new GrpcExchange(options));
}

GrpcExchange::GrpcExchange(const GrpcExchangeOptions& options)
    : options_(options), directory_(options.peer.num_experts, absl::Now()) {
  watcher_ = std::make_unique<AddressWatcher>(
      options_.addresses, options_.resolve_interval, options_.resolver,
      [this](const std::vector<std::string>& addresses) { SetAddresses(addresses); });
  keeper_ = std::thread([this] { KeeperLoop(); });
}

GrpcExchange::~GrpcExchange() {
  Shutdown();
  watcher_.reset();
  {
    MutexLock lock(&mutex_);
    stop_keeper_ = true;
    keeper_changed_.SignalAll();
  }
  keeper_.join();
  // Abandoned calls start nothing new: what is under way comes out of the queue, then it is empty.
  MutexLock lock(&mutex_);
  peers_.clear();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    const std::unique_ptr<CompletionTag> event(static_cast<CompletionTag*>(tag));
    event->Complete(ok);
  }
}

void GrpcExchange::Shutdown() {
  MutexLock lock(&mutex_);
  shut_down_ = true;
  Kick();
}

absl::Status GrpcExchange::Dispatch(const DispatchBatch& batch) {
  M1_RETURN_IF_ERROR(ValidateDispatch(batch, options_.peer.num_experts));
  MutexLock lock(&mutex_);
  last_use_ = absl::Now();
  batch_error_ = absl::OkStatus();
  ledger_.Begin(batch);
  SendWaiting();
  return absl::OkStatus();
}

absl::Status GrpcExchange::Combine() {
  while (true) {
    absl::Time deadline;
    {
      MutexLock lock(&mutex_);
      SendWaiting();
      std::optional<absl::Status> result = BatchResult();
      combining_ = !result.has_value();
      last_use_ = absl::Now();
      if (result.has_value()) {
        ledger_.Clear();
        return *std::move(result);
      }
      deadline = NextDeadline();
    }
    Pump(deadline);
  }
}

std::optional<absl::Status> GrpcExchange::BatchResult() {
  if (shut_down_) return absl::CancelledError("the exchange was shut down");
  if (!batch_error_.ok()) return batch_error_;
  if (ledger_.done()) return absl::OkStatus();
  if (ledger_.num_losses() > kMaxLosses) {
    return absl::UnavailableError(
        absl::StrCat("expert workers were lost ", ledger_.num_losses(), " times over one layer"));
  }
  if (!ledger_.has_waiting()) return std::nullopt;
  absl::Status starved = StarvedError();
  if (!starved.ok()) return starved;
  return std::nullopt;
}

absl::Status GrpcExchange::StarvedError() const {
  std::vector<int32_t> starved;
  const absl::Time limit = absl::Now() - options_.loss_timeout;
  for (const int32_t expert : ledger_.WaitingExperts()) {
    if (directory_.missing_since(expert) <= limit) starved.push_back(expert);
  }
  if (starved.empty()) return absl::OkStatus();
  std::vector<std::string> reasons;
  for (const auto& [id, peer] : peers_) {
    const ExpertPeer snapshot = peer->Snapshot();
    if (!snapshot.connected) {
      reasons.push_back(absl::StrCat(snapshot.address, ": ", snapshot.last_error));
    }
  }
  return absl::UnavailableError(absl::StrCat("no worker for experts ", absl::StrJoin(starved, ","),
                                             " for ", absl::FormatDuration(options_.loss_timeout),
                                             "; ", absl::StrJoin(reasons, "; ")));
}

void GrpcExchange::SendWaiting() {
  if (!ledger_.has_waiting()) return;
  const absl::Time now = absl::Now();
  if (now < send_not_before_) return;
  const auto max_rows = [this](PeerId peer)
                            ABSL_NO_THREAD_SAFETY_ANALYSIS { return peers_.at(peer)->max_rows(); };
  const DispatchBatch& batch = ledger_.batch();
  for (const ExpertShipment* shipment : ledger_.Assign(directory_, max_rows)) {
    const DispatchSlice slice = {batch.rows, shipment->row_indices, shipment->pairs};
    const FrameHeader header = DispatchHeader(shipment->id, batch.layer, slice);
    OutgoingFrame message(header.frame_bytes());
    WriteDispatch(header, slice, message.frame());
    peers_.at(shipment->peer)->Send(shipment->id, message.Finish(), now);
  }
}

absl::Time GrpcExchange::NextDeadline() const {
  const absl::Time now = absl::Now();
  absl::Time deadline = now + kMaxWait;
  if (ledger_.has_waiting() && send_not_before_ > now) {
    deadline = std::min(deadline, send_not_before_);
  }
  for (const auto& [id, peer] : peers_) deadline = std::min(deadline, peer->next_poll());
  // gRPC takes times before the epoch for the infinite future.
  return std::max(deadline, now);
}

void GrpcExchange::Pump(absl::Time deadline) {
  void* tag = nullptr;
  bool ok = false;
  const grpc::CompletionQueue::NextStatus next =
      queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(deadline));
  bool changed = false;
  {
    MutexLock lock(&mutex_);
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      const std::unique_ptr<CompletionTag> event(static_cast<CompletionTag*>(tag));
      event->Complete(ok);
    }
    PollPeers();
    changed = std::exchange(changed_, false);
  }
  if (changed && options_.on_change) options_.on_change();
}

void GrpcExchange::KeeperLoop() {
  while (true) {
    absl::Time deadline;
    {
      MutexLock lock(&mutex_);
      if (stop_keeper_) return;
      const absl::Time idle_since = last_use_ + kIdleTime;
      if (absl::Now() < idle_since) {
        keeper_changed_.WaitUntil(&mutex_, idle_since);
        continue;
      }
      deadline = NextDeadline();
    }
    Pump(deadline);
    // It may have taken an event that a Combine begun meanwhile waits for.
    MutexLock lock(&mutex_);
    if (combining_) Kick();
  }
}

void GrpcExchange::Kick() {
  if (alarm_set_) return;
  alarm_set_ = true;
  alarm_.Set(&queue_, absl::ToChronoTime(absl::Now()),
             static_cast<CompletionTag*>(new WakeTag(&alarm_set_)));
}

void GrpcExchange::SetAddresses(const std::vector<std::string>& addresses) {
  MutexLock lock(&mutex_);
  addresses_ = addresses;
  for (const std::string& address : addresses) {
    const bool known = std::any_of(peers_.begin(), peers_.end(), [&address](const auto& peer) {
      return peer.second->address() == address;
    });
    if (known) continue;
    const PeerId id = next_peer_id_++;
    ExchangePeerListener* const listener = this;
    peers_[id] = std::make_unique<ExchangePeer>(id, address, &options_.peer, &queue_, listener);
  }
}

void GrpcExchange::PollPeers() {
  const absl::Time now = absl::Now();
  for (auto it = peers_.begin(); it != peers_.end();) {
    ExchangePeer& peer = *it->second;
    const bool listed =
        std::find(addresses_.begin(), addresses_.end(), peer.address()) != addresses_.end();
    // A name that no longer resolves to a worker which still answers: it leaves by itself.
    if (!listed && !peer.connected()) {
      it = peers_.erase(it);
      continue;
    }
    if (!shut_down_) peer.Poll(now);
    ++it;
  }
}

void GrpcExchange::OnPeerConnected(PeerId peer) {
  directory_.Add(peer, peers_.at(peer)->experts());
  changed_ = true;
}

void GrpcExchange::OnPeerLost(PeerId peer) {
  directory_.Remove(peer, absl::Now());
  ledger_.PeerLost(peer);
  changed_ = true;
}

absl::StatusOr<uint64_t> GrpcExchange::OnPeerMessage(PeerId peer, const grpc::ByteBuffer& message) {
  M1_ASSIGN_OR_RETURN(IncomingFrame frame, OpenFrameMessage(message));
  FrameHeader header;
  M1_RETURN_IF_ERROR(ReadFrameHeader(&frame.bytes, &header));
  if (header.kind == FrameKind::kError) {
    OnErrorFrame(peer, header.id, ReadErrorBody(&frame.bytes, header));
    return header.id;
  }
  M1_RETURN_IF_ERROR(ledger_.Complete(peer, header, &frame.bytes).status());
  return header.id;
}

void GrpcExchange::OnErrorFrame(PeerId peer, uint64_t id, const absl::Status& error) {
  if (!ledger_.IsOpen(peer, id)) return;
  if (error.code() == absl::StatusCode::kResourceExhausted ||
      error.code() == absl::StatusCode::kUnavailable) {
    ledger_.Return(id);
    send_not_before_ = absl::Now() + kRefusedDelay;
    return;
  }
  batch_error_ = AddContext(error, absl::StrCat("expert worker ", peers_.at(peer)->address()));
}

std::vector<int32_t> GrpcExchange::MissingExperts() const {
  MutexLock lock(&mutex_);
  return directory_.Missing();
}

std::vector<ExpertPeer> GrpcExchange::Peers() const {
  MutexLock lock(&mutex_);
  std::vector<ExpertPeer> peers;
  for (const auto& [id, peer] : peers_) peers.push_back(peer->Snapshot());
  return peers;
}

}  // namespace m1
