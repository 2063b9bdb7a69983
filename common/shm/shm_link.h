// The attention worker's end of a connection through shared memory: handshake, dispatches out,
// answers in. Never waits: whoever waits does so at the doorbell that the worker rings.
// Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "common/base/doorbell.h"
#include "common/exchange/frame.h"
#include "common/shm/handshake.h"
#include "common/shm/shared_memory.h"
#include "common/shm/slots.h"

namespace m1 {

// A row of `hidden_size` fp32 numbers with an answer from each of `num_experts` must fit a slot.
// Errors: InvalidArgument.
absl::Status CheckRowFits(const SlotLayout& layout, int64_t hidden_size, int64_t num_experts);

class ShmLink {
 public:
  // Connects to what the worker offers and passes it memory. Errors: Unavailable when the offer
  // cannot be reached from here (another host, network namespace or user).
  static absl::StatusOr<std::unique_ptr<ShmLink>> Connect(const ShmOffer& offer,
                                                          const SlotLayout& layout,
                                                          const SharedMemory& own_doorbell);

  // Whether the worker has accepted. Errors: Unavailable when it did not, with its reason.
  absl::StatusOr<bool> Accepted();
  bool HungUp() const;

  // Rows of the batch that one dispatch, and its answer, have room for.
  int32_t MaxRows(const DispatchBatch& batch) const;
  // Once accepted. What finds no free slot is kept until one is released.
  void Send(const FrameHeader& header, const DispatchSlice& slice);
  // Wakes the worker if something was sent.
  void Flush();
  std::optional<SlotFrame> NextAnswer() { return slots_.NextAnswer(); }
  void Release(int32_t slot);

 private:
  ShmLink(UniqueFd socket, SharedMemory memory, const SlotLayout& layout);

  const UniqueFd socket_;
  const SharedMemory memory_;
  DispatchSlots slots_;
  SharedMemory worker_doorbell_;
  std::deque<std::string> kept_;  // frames without a slot
  bool sent_ = false;             // since the last Flush
};

}  // namespace m1
