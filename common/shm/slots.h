// The layout of one connection's shared memory, and its two ends.
//
//   offset 0     dispatch words: 8 bytes a slot, written by the attention worker
//          64    answer words: the same, written by the expert worker
//          4096  num_slots dispatch slots of slot_bytes, then num_slots answer slots
//
// The words of a slot are a turn and the number of bytes in the slot. To send, the attention worker
// writes a frame into a slot of its choice and then the next turn into its word; the expert worker
// works on the frame where it lies, writes the answer into the answer slot of the same number and
// then the same turn into that slot's word. So an answer always has room, answers come in any
// order, and there is no index that one end could set wrong for the other: an end believes its own
// record of which slot is in which state, and of the other's words only "this turn" or "not yet". A
// word set wrongly delays the frame or delivers one that the frame's own checks refuse. The number
// of bytes is copied, then bounded by slot_bytes.
//
// No end waits here: see Doorbell. Each end is used by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"

namespace m1 {

struct SlotLayout {
  static constexpr int32_t kMaxSlots = 8;
  static constexpr int64_t kMinSlotBytes = 8192;  // of an error frame, rounded up
  static constexpr int64_t kMaxSlotBytes = int64_t{64} << 20;

  int32_t num_slots = kMaxSlots;
  int64_t slot_bytes = int64_t{4} << 20;  // a multiple of 4096

  int64_t num_bytes() const;
  // InvalidArgument naming the field and its range.
  absl::Status Validate() const;
};

// A frame in shared memory: a peer may change it while it is read.
struct SlotFrame {
  int32_t slot = 0;
  std::span<std::byte> bytes;
};

struct SlotWords;

// The attention worker's end.
class DispatchSlots {
 public:
  // A valid layout's `memory`, zero before the connection's first use; outlives the slots.
  DispatchSlots(std::byte* memory, const SlotLayout& layout);

  const SlotLayout& layout() const { return layout_; }
  // A slot to write a dispatch into, or -1 while all are under way.
  int32_t Free() const;
  std::byte* dispatch(int32_t slot) const;
  // The slot holds a frame of so many bytes.
  void Send(int32_t slot, int64_t num_bytes);
  // The next answer that has come. Release its slot.
  std::optional<SlotFrame> NextAnswer();
  void Release(int32_t slot) { busy_[static_cast<size_t>(slot)] = false; }

 private:
  SlotLayout layout_;
  std::byte* memory_;
  SlotWords* dispatches_;
  const SlotWords* answers_;
  std::array<uint32_t, SlotLayout::kMaxSlots> turns_ = {};
  std::array<bool, SlotLayout::kMaxSlots> busy_ = {};
};

// The expert worker's end.
class AnswerSlots {
 public:
  AnswerSlots(std::byte* memory, const SlotLayout& layout);

  const SlotLayout& layout() const { return layout_; }
  // The next dispatch that has come; its slot is answered once.
  std::optional<SlotFrame> NextDispatch();
  std::byte* answer(int32_t slot) const;
  // The answer slot holds a frame of so many bytes.
  void Answer(int32_t slot, int64_t num_bytes);
  // Dispatches taken and not answered.
  int32_t num_open() const { return num_open_; }

 private:
  SlotLayout layout_;
  std::byte* memory_;
  const SlotWords* dispatches_;
  SlotWords* answers_;
  std::array<uint32_t, SlotLayout::kMaxSlots> turns_ = {};  // of the dispatch that was taken last
  std::array<bool, SlotLayout::kMaxSlots> open_ = {};
  int32_t num_open_ = 0;
};

}  // namespace m1
