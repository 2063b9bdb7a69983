// The bookkeeping of one lane's dispatch among peers that come and go: which (row, expert) pairs
// wait for a host, which are under way to whom, and where an answer's rows belong. Transports send
// what Assign returns and report what happens. Calls are idempotent: a lost pair simply waits
// again. Thread-compatible; knows no transport.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "absl/status/status.h"

#include "common/exchange/byte_chunks.h"
#include "common/exchange/exchange.h"
#include "common/exchange/expert_directory.h"
#include "common/exchange/frame.h"

namespace m1 {

// Shapes, dtypes and ids of a batch. Errors: InvalidArgument.
absl::Status ValidateDispatch(const DispatchBatch& batch, int32_t num_experts);

// A part of the batch that one peer gets as one message.
struct ExpertShipment {
  uint64_t id = 0;
  PeerId peer = 0;
  std::vector<int32_t> row_indices;  // of the batch, ascending
  std::vector<RowExpert> pairs;      // RowExpert::row indexes row_indices
  std::vector<int32_t> out_indices;  // of each pair: row * experts_per_row + place in gate order
};

class DispatchLedger {
 public:
  // Ids of shipments are first_id, first_id + id_step and so on, so that those of several ledgers
  // differ.
  explicit DispatchLedger(uint64_t first_id = 1, uint64_t id_step = 1)
      : next_id_(first_id), id_step_(id_step) {}

  // Forgets the last batch and begins a valid one. The batch's views live until done() or Clear().
  void Begin(const DispatchBatch& batch);
  void Clear();

  bool done() const { return num_open_pairs_ == 0; }
  bool has_waiting() const { return !waiting_.empty(); }
  const DispatchBatch& batch() const { return batch_; }

  // Gives waiting pairs to hosts, all pairs of an expert to the host with the fewest pairs so far,
  // and splits a peer's share at max_rows(peer). Pairs without a host keep waiting. Pointers live
  // until the shipment ends.
  std::vector<const ExpertShipment*> Assign(const ExpertDirectory& directory,
                                            const std::function<int32_t(PeerId)>& max_rows);
  // The answer to a shipment, after its header: rows are copied to their places. False when no such
  // shipment is under way to this peer (late or doubled answers), which is no error. Errors:
  // InvalidArgument when the answer does not fit the shipment.
  absl::StatusOr<bool> Complete(PeerId peer, const FrameHeader& header, ByteChunks* body);
  // The same for rows that are not in the frame: `take` copies row i of the answer to row
  // out_indices[i] of out.
  using TakeRows = std::function<absl::Status(std::span<const int32_t> out_indices)>;
  absl::StatusOr<bool> Complete(PeerId peer, const FrameHeader& header, const TakeRows& take);
  // True when this shipment is under way to this peer.
  bool IsOpen(PeerId peer, uint64_t id) const;
  // Its pairs wait again.
  void Return(uint64_t id);
  // All pairs that were under way to the peer wait again.
  void PeerLost(PeerId peer);

  // Experts of waiting pairs, sorted.
  std::vector<int32_t> WaitingExperts() const;
  // How often a peer that had a part of this batch was lost.
  int32_t num_losses() const { return num_losses_; }

 private:
  // Empty, with room for so many pairs.
  ExpertShipment* NewShipment(PeerId peer, size_t most_pairs);

  DispatchBatch batch_;
  uint64_t next_id_;
  const uint64_t id_step_;
  int64_t num_open_pairs_ = 0;    // waiting or under way
  std::vector<int32_t> waiting_;  // out indices, ascending
  std::map<uint64_t, ExpertShipment> shipments_;
  int32_t num_losses_ = 0;
};

}  // namespace m1
