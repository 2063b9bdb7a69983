// ExpertExchange with expert workers in other processes: one bidirectional gRPC stream to each, all
// on one completion queue, or memory shared with it. Rows of a device (DispatchBatch::device) go to
// peers with a device link from there; for others they are fetched once a batch.
//
// Who waits: the thread in Combine, so that an answer takes no detour over another thread; and,
// when nobody combined for a while, a keeper thread, which connects, reconnects and notices losses.
// Combine waits at the doorbell while a peer in shared memory owes an answer, and looks into the
// completion queue now and then; otherwise it waits in the queue.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/doorbell.h"
#include "common/base/mutex.h"
#include "common/base/watchdog.h"
#include "common/exchange/dispatch_ledger.h"
#include "common/exchange/exchange.h"
#include "common/exchange/expert_directory.h"
#include "common/rpc/address_watcher.h"
#include "common/rpc/exchange_peer.h"
#include "common/shm/shared_memory.h"

namespace m1 {

struct RemoteExchangeOptions {
  // host:port, unix:path or dns:///name:port, the first two also after "shm:" or "nccl:"; see
  // ParseAddressList in channel.h.
  std::vector<std::string> addresses;
  ExchangePeerOptions peer;
  // Combine fails when an expert it needs had no worker for so long.
  absl::Duration loss_timeout = absl::Seconds(60);
  // How long to look for an answer in shared memory before sleeping; at most Doorbell::kMaxSpin.
  absl::Duration spin = Doorbell::kMaxSpin;
  absl::Duration resolve_interval = absl::Seconds(5);
  AddressResolver resolver = ResolveWithSystem;
  // Called, on any thread and without locks, when a worker connected or was lost.
  std::function<void()> on_change;
  // Of the loop that calls Combine: waiting for workers that may be lost is progress, as it ends by
  // itself. May be null.
  Heartbeat* heartbeat = nullptr;
};

class RemoteExchange final : public ExpertExchange, private ExchangePeerListener {
 public:
  // Starts to connect; does not wait. Errors: InvalidArgument for options without addresses or
  // experts.
  static absl::StatusOr<std::unique_ptr<RemoteExchange>> Create(
      const RemoteExchangeOptions& options);
  ~RemoteExchange() override;

  absl::Status Dispatch(const DispatchBatch& batch) override;
  absl::Status Combine(int32_t lane) override;
  std::vector<int32_t> MissingExperts() const override;
  std::vector<ExpertPeer> Peers() const override;
  void Shutdown() override;

 private:
  explicit RemoteExchange(const RemoteExchangeOptions& options);

  // Memory for the doorbell, if an address wants it.
  void CreateDoorbell();
  // Waits for one event until the deadline, handles it, lets peers act on the time.
  void Pump(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  void KeeperLoop();
  void SetAddresses(const std::vector<std::string>& addresses);
  void PollPeers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What one lane's batch comes to. Its ids are congruent to lane + 1.
  struct Lane {
    explicit Lane(int32_t lane)
        : ledger(static_cast<uint64_t>(lane) + 1, static_cast<uint64_t>(kExchangeLanes)) {}
    DispatchLedger ledger;
    absl::Status error;
  };
  Lane& lane(int32_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return lanes_[static_cast<size_t>(index)];
  }
  // Where a dispatch with this id was sent from.
  Lane& LaneOf(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return lanes_[static_cast<size_t>((id + kExchangeLanes - 1) % kExchangeLanes)];
  }
  bool AnyWaiting() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Errors: those of the device that the batch is in.
  absl::Status Send(const DispatchBatch& batch, const ExpertShipment& shipment, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadAnswers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The result of Combine, once there is one.
  std::optional<absl::Status> BatchResult(const Lane& lane) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StarvedError(const DispatchLedger& ledger) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Time NextDeadline() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Until when to wait at the doorbell; nullopt when no peer in shared memory owes an answer.
  std::optional<absl::Time> DoorbellDeadline() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnErrorFrame(PeerId peer, uint64_t id, const absl::Status& error)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Wakes whoever polls the queue.
  void Kick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Called by peers, which are called with the mutex held.
  void OnPeerConnected(PeerId peer) override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void OnPeerChanged(PeerId peer) override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void OnPeerLost(PeerId peer) override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  absl::StatusOr<uint64_t> OnPeerFrame(PeerId peer,
                                       ByteChunks* frame) override ABSL_NO_THREAD_SAFETY_ANALYSIS;

  class WakeTag;

  const RemoteExchangeOptions options_;
  grpc::CompletionQueue queue_;
  SharedMemory doorbell_memory_;      // empty: no peers in shared memory
  std::optional<Doorbell> doorbell_;  // in it; Combine waits, peers and Kick ring

  mutable Mutex mutex_;
  CondVar keeper_changed_;
  std::map<PeerId, std::unique_ptr<ExchangePeer>> peers_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> addresses_ ABSL_GUARDED_BY(mutex_);
  PeerId next_peer_id_ ABSL_GUARDED_BY(mutex_) = 1;
  ExpertDirectory directory_ ABSL_GUARDED_BY(mutex_);
  std::array<Lane, kExchangeLanes> lanes_ ABSL_GUARDED_BY(mutex_) = {Lane(0), Lane(1)};
  absl::Time send_not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time last_use_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time last_pump_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool combining_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_keeper_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  bool alarm_set_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<AddressWatcher> watcher_;
  std::thread keeper_;
};

}  // namespace m1
