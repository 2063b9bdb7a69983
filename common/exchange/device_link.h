// A connection that carries rows between the memories of two devices, past the hosts'. It carries
// nothing but rows: frames (frame.h), which go another way, say what they are and name their slot.
// Implemented by common/nccl.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/tensor/tensor_view.h"

namespace m1 {

// Slots of a connection: each holds the rows of one dispatch on their way, and then those of its
// answer. At both ends there is so much memory for either.
struct DeviceSlots {
  static constexpr int32_t kMaxSlots = 16;
  static constexpr int64_t kMaxSlotBytes = int64_t{1} << 30;

  int32_t num_slots = 0;
  int64_t slot_bytes = 0;

  // InvalidArgument when one is not between 1 and what it may be at most.
  absl::Status Validate() const;
};

// By which the two ends find one another: made by the attention worker, passed to the other one.
struct DeviceLinkKeys {
  std::string dispatch;
  std::string combine;
};

enum class DeviceLinkEnd { kAttention, kExpert };

// One end. Transfers in each direction happen in the order in which both ends ask for them, which
// must be the same. Never waits for the other end. Thread-compatible, except that Gather, Scatter
// and Send are called on the thread of the backend whose memory the rows are in.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;

  virtual const DeviceSlots& slots() const = 0;
  // Takes the set-up, then transfers, further. Errors: Unavailable, from then on always: the link
  // is broken, and what is under way will not come.
  virtual absl::Status Poll() = 0;
  // When Poll is worth calling again; infinite: after the next Send or Receive.
  virtual absl::Duration poll_interval() const = 0;
  // Set up, and a message has gone there and back.
  virtual bool ready() const = 0;

  // slot_bytes in the device's memory, as long as this lives.
  virtual std::byte* outgoing(int32_t slot) = 0;
  virtual std::byte* incoming(int32_t slot) = 0;
  // rows[row_indices[i]] becomes row i of outgoing(slot).
  virtual absl::Status Gather(ConstTensorView rows, std::span<const int32_t> row_indices,
                              int32_t slot) = 0;
  // Row i of incoming(slot) becomes out[out_indices[i]].
  virtual absl::Status Scatter(int32_t slot, TensorView out,
                               std::span<const int32_t> out_indices) = 0;

  // Once ready. The first num_bytes of outgoing(slot), as the backend's operations so far leave
  // them; only while is_sent. Errors show in Poll.
  virtual void Send(int32_t slot, int64_t num_bytes) = 0;
  // Into incoming(slot); only while is_received.
  virtual void Receive(int32_t slot, int64_t num_bytes) = 0;
  // Nothing of the slot is under way that way.
  virtual bool is_sent(int32_t slot) const = 0;
  virtual bool is_received(int32_t slot) const = 0;

  // Nothing is sent or received any more; the slots' memory stays.
  virtual void Close() = 0;
};

// Thread-safe.
class DeviceTransport {
 public:
  virtual ~DeviceTransport() = default;
  // "nccl"
  virtual std::string name() const = 0;
  virtual absl::StatusOr<DeviceLinkKeys> NewKeys() = 0;
  // Starts to set up one end, which fails when it is not ready after `timeout`. Errors:
  // InvalidArgument for keys or slots without meaning; Unavailable or Internal when the device does
  // not give what is needed. The transport outlives the link.
  virtual absl::StatusOr<std::shared_ptr<DeviceLink>> Open(const DeviceLinkKeys& keys,
                                                           const DeviceSlots& slots,
                                                           DeviceLinkEnd end,
                                                           absl::Duration timeout) = 0;
};

}  // namespace m1
