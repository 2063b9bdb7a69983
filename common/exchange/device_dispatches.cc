#include "common/exchange/device_dispatches.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {

DeviceDispatches::DeviceDispatches(std::shared_ptr<DeviceLink> link)
    : link_(std::move(link)), slots_(Index(link_->slots().num_slots)) {}

DeviceDispatches::~DeviceDispatches() { link_->Close(); }

absl::Duration DeviceDispatches::poll_interval() const {
  for (int32_t i = 0; i < num_slots(); ++i) {
    if (slots_[Index(i)].state == State::kComing && !link_->is_received(i)) {
      return absl::ZeroDuration();
    }
  }
  // Nobody waits for the end of a send.
  return std::max(link_->poll_interval(), absl::Milliseconds(1));
}

int32_t DeviceDispatches::MaxRows(const DispatchBatch& batch) const {
  const int64_t row_bytes = batch.rows.dim(1) * DTypeBytes(batch.rows.dtype());
  const int64_t most = std::max<int64_t>(1, batch.experts_per_row * row_bytes);
  return static_cast<int32_t>(std::clamp<int64_t>(link_->slots().slot_bytes / most, 1, INT32_MAX));
}

int32_t DeviceDispatches::FreeSlot() const {
  for (int32_t i = 0; i < num_slots(); ++i) {
    if (slots_[Index(i)].state == State::kFree && link_->is_sent(i) && link_->is_received(i)) {
      return i;
    }
  }
  return -1;
}

absl::StatusOr<bool> DeviceDispatches::Send(ConstTensorView rows,
                                            std::span<const int32_t> row_indices,
                                            FrameHeader* header) {
  // A broken link shows in its owner's next Poll.
  if (!link_->ready() || !link_->Poll().ok()) return false;
  const int32_t slot = FreeSlot();
  const int64_t send_bytes = header->num_rows * header->row_bytes();
  const int64_t answer_bytes = header->num_pairs * header->row_bytes();
  if (slot < 0 || send_bytes == 0 || answer_bytes == 0 ||
      std::max(send_bytes, answer_bytes) > link_->slots().slot_bytes) {
    return false;
  }
  M1_RETURN_IF_ERROR(link_->Gather(rows, row_indices, slot));
  link_->Send(slot, send_bytes);
  header->device_slot = slot;
  slots_[Index(slot)] = {State::kSent, CombineHeader(*header)};
  return true;
}

absl::Status DeviceDispatches::OnAnswer(const FrameHeader& header) {
  const int32_t slot = header.device_slot;
  if (slot < 0 || slot >= num_slots() || slots_[Index(slot)].state != State::kSent) {
    return absl::InvalidArgumentError(absl::StrCat("answer in slot ", slot, ", which awaits none"));
  }
  const FrameHeader& wanted = slots_[Index(slot)].answer;
  if (header.kind != wanted.kind || header.id != wanted.id || header.dtype != wanted.dtype ||
      header.hidden != wanted.hidden || header.num_pairs != wanted.num_pairs) {
    return absl::InvalidArgumentError(
        absl::StrCat("answer to frame ", header.id, " of ", header.num_pairs, " rows in slot ",
                     slot, ", want to ", wanted.id, " of ", wanted.num_pairs));
  }
  slots_[Index(slot)].state = State::kComing;
  link_->Receive(slot, header.num_pairs * header.row_bytes());
  return absl::OkStatus();
}

void DeviceDispatches::OnError(uint64_t id) {
  for (Slot& slot : slots_) {
    if (slot.state == State::kSent && slot.answer.id == id) slot.state = State::kFree;
  }
}

std::optional<FrameHeader> DeviceDispatches::NextAnswer() const {
  for (int32_t i = 0; i < num_slots(); ++i) {
    const Slot& slot = slots_[Index(i)];
    if (slot.state == State::kComing && link_->is_received(i)) return slot.answer;
  }
  return std::nullopt;
}

absl::Status DeviceDispatches::Take(const FrameHeader& answer, TensorView out,
                                    std::span<const int32_t> out_indices) {
  return link_->Scatter(answer.device_slot, out, out_indices);
}

void DeviceDispatches::Release(const FrameHeader& answer) {
  slots_[Index(answer.device_slot)].state = State::kFree;
}

}  // namespace m1
