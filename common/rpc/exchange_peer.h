// The attention worker's end of one connection to an expert worker: Describe, identity check, then
// one Exchange stream, for `nccl:` addresses with a device link beside it that carries rows once it
// is ready, or, for `shm:` addresses, shared memory; again from the start after a loss. A state
// machine without threads: its owner passes time by Poll and events by the completion queue,
// and serialises all calls.
#pragma once

#include <grpcpp/completion_queue.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/exchange/byte_chunks.h"
#include "common/exchange/device_link.h"
#include "common/exchange/exchange.h"
#include "common/exchange/expert_directory.h"
#include "common/exchange/frame.h"
#include "common/exchange/identity.h"
#include "common/rpc/channel.h"
#include "common/security/security.h"
#include "common/shm/shared_memory.h"
#include "common/shm/slots.h"

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
  // Of the memory shared with one peer.
  SlotLayout slots;
  ExchangeObserver* observer = nullptr;  // outlives the peer
  // Outlives the peers; null, or without an identity: plaintext.
  const Security* security = nullptr;
  // For `nccl:` addresses; outlives the peers. Null: rows go through the host's memory.
  DeviceTransport* device_transport = nullptr;
  // A device link that is not ready after so long is given up.
  absl::Duration device_timeout = absl::Seconds(60);
};

// What the peer tells its owner.
class ExchangePeerListener {
 public:
  virtual ~ExchangePeerListener() = default;
  virtual void OnPeerConnected(PeerId peer) = 0;
  // It is reached in another way than before.
  virtual void OnPeerChanged(PeerId peer) = 0;
  // Whatever was sent and not answered is lost.
  virtual void OnPeerLost(PeerId peer) = 0;
  // Returns the id of the dispatch that the frame answers, or an error when it is not what this
  // peer may send: the peer is then lost.
  virtual absl::StatusOr<uint64_t> OnPeerFrame(PeerId peer, ByteChunks* frame) = 0;
};

// What all peers of an owner share; outlives them. The queue also outlives its last event.
struct ExchangePeerContext {
  const ExchangePeerOptions* options = nullptr;
  grpc::CompletionQueue* queue = nullptr;
  // DoorbellWords that peers in shared memory ring; an empty one: no such peers.
  const SharedMemory* doorbell = nullptr;
  ExchangePeerListener* listener = nullptr;
};

class ExchangePeer {
 public:
  // `address`: as ParseAddressList gives it.
  ExchangePeer(PeerId id, std::string address, const ExchangePeerContext& context);
  // Cancels what is under way; its events still arrive at the queue and do nothing.
  ~ExchangePeer();

  const std::string& address() const { return address_; }
  bool connected() const { return connected_; }
  // Of one Send of this batch.
  int32_t max_rows(const DispatchBatch& batch) const;
  // Answers come through shared memory: ring, then ReadAnswers.
  bool over_shm() const;
  bool over_device() const;
  bool owes_answer() const { return !unanswered_.empty(); }
  const std::vector<int32_t>& experts() const { return experts_; }
  ExpertPeer Snapshot() const;

  // Connects when it is time, and gives up a peer that owes an answer for too long.
  void Poll(absl::Time now);
  // Poll has nothing to do before.
  absl::Time next_poll() const;
  // Sends a dispatch; one answer with its id is expected. While connected. The peer may look at it
  // only after Flush.
  void Send(const FrameHeader& header, const DispatchSlice& slice, absl::Time now);
  // The same with rows of the device's memory. False, and nothing is sent, when they cannot go from
  // there now. Errors: those of the device.
  absl::StatusOr<bool> SendFromDevice(const FrameHeader& header, const DispatchSlice& slice,
                                      absl::Time now);
  void Flush();
  // Takes the answers that lie in shared memory, or the device's, now. On the thread of the device.
  void ReadAnswers();
  // Rows of an answer that OnPeerFrame is told of, when they are not in the frame: row i becomes
  // out[out_indices[i]].
  absl::Status TakeRows(const FrameHeader& answer, TensorView out,
                        std::span<const int32_t> out_indices);

 private:
  class Call;
  friend class Call;

  void Connect(absl::Time now);
  // When a peer that owes an answer is lost.
  absl::Time answer_deadline() const;
  // From the call.
  void Described(std::vector<int32_t> experts, int32_t max_rows);
  // It is not what we need.
  void Refuse(const std::string& difference);
  void Opened();
  void Received(ByteChunks* frame);
  // An answer is on its way.
  void Heard();
  // `what` is not to be had.
  void FellBack(const std::string& what, const absl::Status& why);
  void DeviceReady();
  void Lose(const std::string& error);

  const PeerId id_;
  const std::string address_;
  const ExchangePeerContext context_;
  const ExchangePeerOptions* const options_;
  ExchangePeerListener* const listener_;
  std::mt19937 jitter_;

  std::shared_ptr<Call> call_;  // also held by its events under way
  bool connected_ = false;
  std::vector<int32_t> experts_;
  int32_t max_rows_ = 1;
  std::string last_error_ = "not reached yet";
  std::string last_fallback_;  // why shared memory, or a device link, was not to be had
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration backoff_;
  // Ids of frames and when they were sent; an answer to any other id breaks the protocol.
  std::map<uint64_t, absl::Time> unanswered_;
  bool mismatched_ = false;
  int64_t sent_bytes_ = 0;
  int64_t received_bytes_ = 0;
  absl::Time waiting_since_;  // of the last answer, or the first dispatch after all were answered
};

}  // namespace m1
