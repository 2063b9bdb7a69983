// The attention worker's end of one connection to an expert worker: Describe, identity check, one
// Exchange stream, and again from the start after a loss. A state machine without threads: its
// owner passes time by Poll and events by the completion queue, and serialises all calls.
#pragma once

#include <grpcpp/completion_queue.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/exchange/exchange.h"
#include "common/exchange/expert_directory.h"
#include "common/exchange/identity.h"
#include "common/rpc/channel.h"

namespace m1 {

// What a completion queue of the exchange returns; deleted after Complete.
class CompletionTag {
 public:
  virtual ~CompletionTag() = default;
  virtual void Complete(bool ok) = 0;
};

struct ExchangePeerOptions {
  WorkerIdentity identity;
  int32_t num_experts = 0;
  int32_t hidden_size = 0;  // 0: not compared
  // A peer that owes an answer for so long, or does not describe itself in this time, is lost.
  absl::Duration exchange_timeout = absl::Seconds(10);
  // Between attempts to connect, with jitter.
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(1);
};

// What the peer tells its owner.
class ExchangePeerListener {
 public:
  virtual ~ExchangePeerListener() = default;
  virtual void OnPeerConnected(PeerId peer) = 0;
  // Whatever was sent and not answered is lost.
  virtual void OnPeerLost(PeerId peer) = 0;
  // Returns the id of the dispatch that the message answers, or an error when it is not what this
  // peer may send: the peer is then lost.
  virtual absl::StatusOr<uint64_t> OnPeerMessage(PeerId peer, const grpc::ByteBuffer& message) = 0;
};

class ExchangePeer {
 public:
  // Options, queue and listener outlive the peer; the queue also outlives its last event.
  ExchangePeer(PeerId id, std::string address, const ExchangePeerOptions* options,
               grpc::CompletionQueue* queue, ExchangePeerListener* listener);
  // Cancels what is under way; its events still arrive at the queue and do nothing.
  ~ExchangePeer();

  const std::string& address() const { return address_; }
  bool connected() const { return connected_; }
  int32_t max_rows() const { return max_rows_; }
  const std::vector<int32_t>& experts() const { return experts_; }
  ExpertPeer Snapshot() const;

  // Connects when it is time, and gives up a peer that owes an answer for too long.
  void Poll(absl::Time now);
  // Poll has nothing to do before.
  absl::Time next_poll() const;
  // Sends a dispatch; one answer with its id is expected. While connected.
  void Send(uint64_t id, const grpc::ByteBuffer& message, absl::Time now);

 private:
  class Call;
  friend class Call;

  void Connect(absl::Time now);
  // From the call.
  void Described(std::vector<int32_t> experts, int32_t max_rows);
  void Opened();
  void Received(const grpc::ByteBuffer& message);
  void Lose(const std::string& error);

  const PeerId id_;
  const std::string address_;
  const ExchangePeerOptions* const options_;
  grpc::CompletionQueue* const queue_;
  ExchangePeerListener* const listener_;
  std::mt19937 jitter_;

  std::shared_ptr<Call> call_;  // also held by its events under way
  bool connected_ = false;
  std::vector<int32_t> experts_;
  int32_t max_rows_ = 1;
  std::string last_error_ = "not reached yet";
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration backoff_;
  std::set<uint64_t> unanswered_;  // ids of frames; an answer to any other id breaks the protocol
  absl::Time waiting_since_;  // of the last answer, or the first dispatch after all were answered
};

}  // namespace m1
