// A DeviceLink in the host's memory that does what the test says: transfers are under way until it
// ends them.
#pragma once

#include <cstring>
#include <set>
#include <vector>

#include "common/exchange/device_link.h"

namespace m1 {

class FakeDeviceLink final : public DeviceLink {
 public:
  explicit FakeDeviceLink(const DeviceSlots& slots)
      : slots_(slots),
        outgoing_(static_cast<size_t>(slots.num_slots * slots.slot_bytes)),
        incoming_(outgoing_.size()) {}

  const DeviceSlots& slots() const override { return slots_; }
  absl::Status Poll() override { return status; }
  absl::Duration poll_interval() const override { return absl::InfiniteDuration(); }
  bool ready() const override { return is_ready; }
  std::byte* outgoing(int32_t slot) override { return outgoing_.data() + slot * slots_.slot_bytes; }
  std::byte* incoming(int32_t slot) override { return incoming_.data() + slot * slots_.slot_bytes; }
  absl::Status Gather(ConstTensorView rows, std::span<const int32_t> row_indices,
                      int32_t slot) override {
    const int64_t row_bytes = rows.num_bytes() / rows.dim(0);
    for (size_t i = 0; i < row_indices.size(); ++i) {
      std::memcpy(outgoing(slot) + static_cast<int64_t>(i) * row_bytes,
                  static_cast<const std::byte*>(rows.data()) + row_indices[i] * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return absl::OkStatus();
  }
  absl::Status Scatter(int32_t, TensorView, std::span<const int32_t>) override {
    ++num_scatters;
    return absl::OkStatus();
  }
  void Send(int32_t slot, int64_t num_bytes) override {
    sending.insert(slot);
    sent_bytes.push_back(num_bytes);
  }
  void Receive(int32_t slot, int64_t num_bytes) override {
    receiving.insert(slot);
    received_bytes.push_back(num_bytes);
  }
  bool is_sent(int32_t slot) const override { return !sending.contains(slot); }
  bool is_received(int32_t slot) const override { return !receiving.contains(slot); }
  void Close() override { is_closed = true; }

  absl::Status status;
  bool is_ready = true;
  bool is_closed = false;
  int num_scatters = 0;
  std::set<int32_t> sending, receiving;
  std::vector<int64_t> sent_bytes, received_bytes;

 private:
  const DeviceSlots slots_;
  std::vector<std::byte> outgoing_, incoming_;
};

}  // namespace m1
