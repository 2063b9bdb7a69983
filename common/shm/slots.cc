#include "common/shm/slots.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace m1 {

struct SlotWords {
  struct Word {
    std::atomic<uint32_t> turn;
    std::atomic<uint32_t> num_bytes;
  };
  Word words[SlotLayout::kMaxSlots];

  // Bytes first: who sees the turn sees them and the frame.
  void Publish(int32_t slot, uint32_t turn, int64_t num_bytes) {
    words[slot].num_bytes.store(static_cast<uint32_t>(num_bytes), std::memory_order_relaxed);
    words[slot].turn.store(turn, std::memory_order_release);
  }
  uint32_t turn(int32_t slot) const { return words[slot].turn.load(std::memory_order_acquire); }
  size_t num_bytes(int32_t slot, const SlotLayout& layout) const {
    const int64_t num_bytes = words[slot].num_bytes.load(std::memory_order_relaxed);
    return static_cast<size_t>(std::min(num_bytes, layout.slot_bytes));
  }
};
static_assert(sizeof(SlotWords) == 64);

namespace {

constexpr int64_t kPageBytes = 4096;

SlotWords* WordsAt(std::byte* memory, int32_t index) {
  return reinterpret_cast<SlotWords*>(memory + index * static_cast<int64_t>(sizeof(SlotWords)));
}

std::byte* DispatchAt(std::byte* memory, const SlotLayout& layout, int32_t slot) {
  return memory + kPageBytes + slot * layout.slot_bytes;
}

std::byte* AnswerAt(std::byte* memory, const SlotLayout& layout, int32_t slot) {
  return DispatchAt(memory, layout, layout.num_slots + slot);
}

}  // namespace

int64_t SlotLayout::num_bytes() const { return kPageBytes + 2 * num_slots * slot_bytes; }

absl::Status SlotLayout::Validate() const {
  if (num_slots < 1 || num_slots > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_slots ", num_slots, ", want 1 to ", kMaxSlots));
  }
  if (slot_bytes < kMinSlotBytes || slot_bytes > kMaxSlotBytes || slot_bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("slot_bytes ", slot_bytes,
                                                   ", want a multiple of ", kPageBytes, " from ",
                                                   kMinSlotBytes, " to ", kMaxSlotBytes));
  }
  return absl::OkStatus();
}

DispatchSlots::DispatchSlots(std::byte* memory, const SlotLayout& layout)
    : layout_(layout),
      memory_(memory),
      dispatches_(WordsAt(memory, 0)),
      answers_(WordsAt(memory, 1)) {}

int32_t DispatchSlots::Free() const {
  for (int32_t slot = 0; slot < layout_.num_slots; ++slot) {
    if (!busy_[static_cast<size_t>(slot)]) return slot;
  }
  return -1;
}

std::byte* DispatchSlots::dispatch(int32_t slot) const {
  return DispatchAt(memory_, layout_, slot);
}

void DispatchSlots::Send(int32_t slot, int64_t num_bytes) {
  busy_[static_cast<size_t>(slot)] = true;
  dispatches_->Publish(slot, ++turns_[static_cast<size_t>(slot)], num_bytes);
}

std::optional<SlotFrame> DispatchSlots::NextAnswer() {
  for (int32_t slot = 0; slot < layout_.num_slots; ++slot) {
    const size_t index = static_cast<size_t>(slot);
    if (!busy_[index] || answers_->turn(slot) != turns_[index]) continue;
    return SlotFrame{slot, {AnswerAt(memory_, layout_, slot), answers_->num_bytes(slot, layout_)}};
  }
  return std::nullopt;
}

AnswerSlots::AnswerSlots(std::byte* memory, const SlotLayout& layout)
    : layout_(layout),
      memory_(memory),
      dispatches_(WordsAt(memory, 0)),
      answers_(WordsAt(memory, 1)) {}

std::optional<SlotFrame> AnswerSlots::NextDispatch() {
  for (int32_t slot = 0; slot < layout_.num_slots; ++slot) {
    const size_t index = static_cast<size_t>(slot);
    if (open_[index]) continue;
    const uint32_t turn = dispatches_->turn(slot);
    if (turn == turns_[index]) continue;
    turns_[index] = turn;
    open_[index] = true;
    ++num_open_;
    return SlotFrame{slot,
                     {DispatchAt(memory_, layout_, slot), dispatches_->num_bytes(slot, layout_)}};
  }
  return std::nullopt;
}

std::byte* AnswerSlots::answer(int32_t slot) const { return AnswerAt(memory_, layout_, slot); }

void AnswerSlots::Answer(int32_t slot, int64_t num_bytes) {
  open_[static_cast<size_t>(slot)] = false;
  --num_open_;
  answers_->Publish(slot, turns_[static_cast<size_t>(slot)], num_bytes);
}

}  // namespace m1
