#include "common/rpc/remote_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/exchange/frame.h"
#include "common/rpc/channel.h"
#include "common/shm/handshake.h"

namespace m1 {
namespace {

// The keeper leaves the queue alone for so long after the last use.
constexpr absl::Duration kIdleTime = absl::Milliseconds(50);
// Longest wait in the queue, so that new addresses and peers are noticed.
constexpr absl::Duration kMaxWait = absl::Milliseconds(20);
// Combine looks into the queue at least so often, while it waits at the doorbell or never waits.
constexpr absl::Duration kPumpInterval = absl::Milliseconds(10);
// The same while a gRPC peer owes an answer too: its stream moves only when the queue is polled.
constexpr absl::Duration kMixedPumpInterval = absl::Milliseconds(1);
// After a worker's queue was full.
constexpr absl::Duration kRefusedDelay = absl::Milliseconds(5);
// Rows that cost so many workers their connection are given up.
constexpr int32_t kMaxLosses = 20;

}  // namespace

class RemoteExchange::WakeTag final : public CompletionTag {
 public:
  explicit WakeTag(bool* set) : set_(set) {}
  void Complete(bool) override { *set_ = false; }

 private:
  bool* const set_;
};

absl::StatusOr<std::unique_ptr<RemoteExchange>> RemoteExchange::Create(
    const RemoteExchangeOptions& options) {
  if (options.addresses.empty()) return absl::InvalidArgumentError("no expert worker addresses");
  if (options.peer.num_experts < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_experts is ", options.peer.num_experts, ", want at least 1"));
  }
  return std::unique_ptr<RemoteExchange>(new RemoteExchange(options));
}

RemoteExchange::RemoteExchange(const RemoteExchangeOptions& options)
    : options_(options), directory_(options.peer.num_experts, absl::Now()) {
  CreateDoorbell();
  watcher_ = std::make_unique<AddressWatcher>(
      options_.addresses, options_.resolve_interval, options_.resolver,
      [this](const std::vector<std::string>& addresses) { SetAddresses(addresses); });
  keeper_ = std::thread([this] { KeeperLoop(); });
}

void RemoteExchange::CreateDoorbell() {
  if (std::none_of(options_.addresses.begin(), options_.addresses.end(), HasShmPrefix)) return;
  absl::StatusOr<SharedMemory> memory = SharedMemory::Create(kDoorbellBytes);
  if (!memory.ok()) {
    M1_LOG(kWarning) << "no shared memory error=\"" << memory.status().message() << "\"";
    return;
  }
  doorbell_memory_ = *std::move(memory);
  doorbell_.emplace(reinterpret_cast<DoorbellWords*>(doorbell_memory_.data()));
}

RemoteExchange::~RemoteExchange() {
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

void RemoteExchange::Shutdown() {
  MutexLock lock(&mutex_);
  shut_down_ = true;
  Kick();
}

absl::Status RemoteExchange::Dispatch(const DispatchBatch& batch) {
  M1_RETURN_IF_ERROR(ValidateDispatch(batch, options_.peer.num_experts));
  MutexLock lock(&mutex_);
  last_use_ = absl::Now();
  lane(batch.lane).error = absl::OkStatus();
  lane(batch.lane).ledger.Begin(batch);
  SendWaiting();
  return absl::OkStatus();
}

absl::Status RemoteExchange::Combine(int32_t lane_index) {
  while (true) {
    const uint32_t seen = doorbell_.has_value() ? doorbell_->count() : 0;
    absl::Time deadline;
    std::optional<absl::Time> doorbell_deadline;
    if (options_.heartbeat != nullptr) options_.heartbeat->Beat();
    {
      MutexLock lock(&mutex_);
      ReadAnswers();
      SendWaiting();
      std::optional<absl::Status> result = BatchResult(lane(lane_index));
      combining_ = !result.has_value();
      last_use_ = absl::Now();
      if (result.has_value()) {
        lane(lane_index).ledger.Clear();
        return *std::move(result);
      }
      deadline = NextDeadline();
      doorbell_deadline = DoorbellDeadline();
      if (doorbell_deadline.has_value()) deadline = std::min(deadline, *doorbell_deadline);
    }
    if (doorbell_deadline.has_value() && absl::Now() < deadline) {
      doorbell_->Wait(seen, deadline, options_.spin);
    } else {
      Pump(deadline);
    }
  }
}

void RemoteExchange::ReadAnswers() {
  for (const auto& [id, peer] : peers_) peer->ReadAnswers();
}

std::optional<absl::Time> RemoteExchange::DoorbellDeadline() const {
  bool over_shm = false;
  bool over_grpc = false;
  for (const auto& [id, peer] : peers_) {
    if (peer->owes_answer()) (peer->over_shm() ? over_shm : over_grpc) = true;
  }
  if (!over_shm) return std::nullopt;
  return last_pump_ + (over_grpc ? kMixedPumpInterval : kPumpInterval);
}

std::optional<absl::Status> RemoteExchange::BatchResult(const Lane& lane) const {
  const DispatchLedger& ledger = lane.ledger;
  if (shut_down_) return absl::CancelledError("the exchange was shut down");
  if (!lane.error.ok()) return lane.error;
  if (ledger.done()) return absl::OkStatus();
  if (ledger.num_losses() > kMaxLosses) {
    return absl::UnavailableError(
        absl::StrCat("expert workers were lost ", ledger.num_losses(), " times over one layer"));
  }
  if (!ledger.has_waiting()) return std::nullopt;
  absl::Status starved = StarvedError(ledger);
  if (!starved.ok()) return starved;
  return std::nullopt;
}

absl::Status RemoteExchange::StarvedError(const DispatchLedger& ledger) const {
  std::vector<int32_t> starved;
  const absl::Time limit = absl::Now() - options_.loss_timeout;
  for (const int32_t expert : ledger.WaitingExperts()) {
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

bool RemoteExchange::AnyWaiting() const {
  return std::any_of(lanes_.begin(), lanes_.end(),
                     [](const Lane& lane) { return lane.ledger.has_waiting(); });
}

void RemoteExchange::SendWaiting() {
  const absl::Time now = absl::Now();
  if (!AnyWaiting() || now < send_not_before_) return;
  for (Lane& lane : lanes_) {
    const DispatchBatch& batch = lane.ledger.batch();
    const auto max_rows = [&](PeerId peer) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return peers_.at(peer)->max_rows(batch);
    };
    for (const ExpertShipment* shipment : lane.ledger.Assign(directory_, max_rows)) {
      const absl::Status sent = Send(batch, *shipment, now);
      if (!sent.ok()) lane.error = sent;
    }
  }
  // A worker that sees all of its frames at once can run them together.
  for (const auto& [id, peer] : peers_) peer->Flush();
}

absl::Status RemoteExchange::Send(const DispatchBatch& batch, const ExpertShipment& shipment,
                                  absl::Time now) {
  ExchangePeer& peer = *peers_.at(shipment.peer);
  DispatchSlice slice = {batch.rows, shipment.row_indices, shipment.pairs};
  const FrameHeader header = DispatchHeader(shipment.id, batch.layer, slice);
  if (batch.device != nullptr) {
    slice.rows = batch.device->rows();
    M1_ASSIGN_OR_RETURN(const bool is_sent, peer.SendFromDevice(header, slice, now));
    if (is_sent) return absl::OkStatus();
    slice.rows = batch.rows;
    M1_RETURN_IF_ERROR(batch.device->FetchRows());
  }
  peer.Send(header, slice, now);
  return absl::OkStatus();
}

absl::Time RemoteExchange::NextDeadline() const {
  const absl::Time now = absl::Now();
  absl::Time deadline = now + kMaxWait;
  if (AnyWaiting() && send_not_before_ > now) {
    deadline = std::min(deadline, send_not_before_);
  }
  for (const auto& [id, peer] : peers_) deadline = std::min(deadline, peer->next_poll());
  // gRPC takes times before the epoch for the infinite future.
  return std::max(deadline, now);
}

void RemoteExchange::Pump(absl::Time deadline) {
  void* tag = nullptr;
  bool ok = false;
  const grpc::CompletionQueue::NextStatus next =
      queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(deadline));
  bool changed = false;
  {
    MutexLock lock(&mutex_);
    last_pump_ = absl::Now();
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      const std::unique_ptr<CompletionTag> event(static_cast<CompletionTag*>(tag));
      event->Complete(ok);
    }
    PollPeers();
    changed = std::exchange(changed_, false);
  }
  if (changed && options_.on_change) options_.on_change();
}

void RemoteExchange::KeeperLoop() {
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

void RemoteExchange::Kick() {
  if (doorbell_.has_value()) doorbell_->Ring();
  if (alarm_set_) return;
  alarm_set_ = true;
  alarm_.Set(&queue_, absl::ToChronoTime(absl::Now()),
             static_cast<CompletionTag*>(new WakeTag(&alarm_set_)));
}

void RemoteExchange::SetAddresses(const std::vector<std::string>& addresses) {
  MutexLock lock(&mutex_);
  addresses_ = addresses;
  for (const std::string& address : addresses) {
    const bool known = std::any_of(peers_.begin(), peers_.end(), [&address](const auto& peer) {
      return peer.second->address() == address;
    });
    if (known) continue;
    const PeerId id = next_peer_id_++;
    const ExchangePeerContext context = {
        .options = &options_.peer,
        .queue = &queue_,
        .doorbell = &doorbell_memory_,
        .listener = this,
    };
    peers_[id] = std::make_unique<ExchangePeer>(id, address, context);
  }
}

void RemoteExchange::PollPeers() {
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

void RemoteExchange::OnPeerConnected(PeerId peer) {
  directory_.Add(peer, peers_.at(peer)->experts());
  changed_ = true;
}

void RemoteExchange::OnPeerChanged(PeerId) { changed_ = true; }

void RemoteExchange::OnPeerLost(PeerId peer) {
  directory_.Remove(peer, absl::Now());
  for (Lane& lane : lanes_) lane.ledger.PeerLost(peer);
  changed_ = true;
}

absl::StatusOr<uint64_t> RemoteExchange::OnPeerFrame(PeerId peer, ByteChunks* frame) {
  FrameHeader header;
  M1_RETURN_IF_ERROR(ReadFrameHeader(frame, &header));
  if (header.kind == FrameKind::kError) {
    OnErrorFrame(peer, header.id, ReadErrorBody(frame, header));
    return header.id;
  }
  DispatchLedger& ledger = LaneOf(header.id).ledger;
  if (header.rows_in_frame()) {
    M1_RETURN_IF_ERROR(ledger.Complete(peer, header, frame).status());
    return header.id;
  }
  const auto take = [&](std::span<const int32_t> out_indices)
                        ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
    DeviceBatch* const device = ledger.batch().device;
    if (device == nullptr) return absl::InvalidArgumentError("answer in a slot to rows of a frame");
    const TensorView out = device->out();
    const Shape rows = {out.dim(0) * out.dim(1), out.dim(2)};
    M1_RETURN_IF_ERROR(peers_.at(peer)->TakeRows(header, out.Reshape(rows), out_indices));
    device->OnDeviceRows(out_indices);
    return absl::OkStatus();
  };
  M1_RETURN_IF_ERROR(ledger.Complete(peer, header, take).status());
  return header.id;
}

void RemoteExchange::OnErrorFrame(PeerId peer, uint64_t id, const absl::Status& error) {
  Lane& lane = LaneOf(id);
  if (!lane.ledger.IsOpen(peer, id)) return;
  if (error.code() == absl::StatusCode::kResourceExhausted ||
      error.code() == absl::StatusCode::kUnavailable) {
    lane.ledger.Return(id);
    send_not_before_ = absl::Now() + kRefusedDelay;
    return;
  }
  lane.error = AddContext(error, absl::StrCat("expert worker ", peers_.at(peer)->address()));
}

std::vector<int32_t> RemoteExchange::MissingExperts() const {
  MutexLock lock(&mutex_);
  return directory_.Missing();
}

std::vector<ExpertPeer> RemoteExchange::Peers() const {
  MutexLock lock(&mutex_);
  std::vector<ExpertPeer> peers;
  for (const auto& [id, peer] : peers_) peers.push_back(peer->Snapshot());
  return peers;
}

}  // namespace m1
