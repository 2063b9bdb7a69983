// DeviceLink over NCCL: one channel for dispatches and one for answers, so that neither direction
// ever waits for the other. Set-up ends with a message that goes there and back.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"

#include "common/exchange/device_link.h"
#include "common/kernels/backend.h"
#include "common/nccl/channel.h"
#include "common/nccl/link_memory.h"
#include "common/nccl/reaper.h"

namespace m1::nccl {

// What all links of a process share.
struct LinkContext {
  KernelBackend* backend = nullptr;  // whose rows travel; outlives the links, as the reaper does
  cuda::Stream stream = nullptr;     // of its operations
  Reaper* reaper = nullptr;
};

class NcclLink final : public DeviceLink {
 public:
  // Two ids: of dispatches and of answers. Errors: those of Channel::Open.
  static absl::StatusOr<std::shared_ptr<DeviceLink>> Open(const LinkContext& context,
                                                          const UniqueId& dispatch,
                                                          const UniqueId& combine,
                                                          const DeviceSlots& slots,
                                                          std::shared_ptr<LinkMemory> memory,
                                                          DeviceLinkEnd end, absl::Time deadline);
  ~NcclLink() override { Close(); }

  const DeviceSlots& slots() const override { return slots_; }
  absl::Status Poll() override;
  absl::Duration poll_interval() const override;
  bool ready() const override { return state_ == State::kReady; }
  std::byte* outgoing(int32_t slot) override { return memory_->outgoing + Offset(slot); }
  std::byte* incoming(int32_t slot) override { return memory_->incoming + Offset(slot); }
  absl::Status Gather(ConstTensorView rows, std::span<const int32_t> row_indices,
                      int32_t slot) override;
  absl::Status Scatter(int32_t slot, TensorView out, std::span<const int32_t> out_indices) override;
  void Send(int32_t slot, int64_t num_bytes) override;
  void Receive(int32_t slot, int64_t num_bytes) override;
  bool is_sent(int32_t slot) const override { return out_ == nullptr || out_->is_idle(slot); }
  bool is_received(int32_t slot) const override { return in_ == nullptr || in_->is_idle(slot); }
  void Close() override;

 private:
  enum class State { kConnecting, kTesting, kReady };

  NcclLink(const LinkContext& context, const DeviceSlots& slots, std::shared_ptr<LinkMemory> memory,
           DeviceLinkEnd end, absl::Time deadline);

  int64_t Offset(int32_t slot) const { return slot * slots_.slot_bytes; }
  absl::Status Advance();
  absl::Status StartTest();
  absl::Status ContinueTest();
  // The first `rows` of a slot.
  static TensorView RowsAt(std::byte* data, ConstTensorView like, size_t rows);
  std::span<const int32_t> Iota(size_t count);

  const LinkContext context_;
  const DeviceSlots slots_;
  const std::shared_ptr<LinkMemory> memory_;
  const DeviceLinkEnd end_;
  const absl::Time deadline_;          // of the set-up
  std::unique_ptr<Channel> out_, in_;  // null once closed
  State state_ = State::kConnecting;
  absl::Status status_;
  std::vector<int32_t> iota_;
};

}  // namespace m1::nccl
