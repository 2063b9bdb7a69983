// Where one thread waits for many that bring it work, in this process or, when the words lie in
// shared memory, in others. The waiter looks for work between reading count() and waiting, so that
// no ring is missed:
//
//   const uint32_t seen = bell.count();
//   if (!TakeWork()) bell.Wait(seen, deadline, spin);
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace m1 {

// The words, as they lie in memory: a cache line, zero at first. Whoever may write to them can make
// the waiter wake too often, or up to Doorbell::kMaxSleep too late, and nothing else.
struct alignas(64) DoorbellWords {
  std::atomic<uint32_t> count = 0;
  std::atomic<uint32_t> waiting = 0;  // 1: the waiter sleeps, or is about to
};

class Doorbell {
 public:
  // Longest useful spin: a wake costs about as much.
  static constexpr absl::Duration kMaxSpin = absl::Microseconds(20);
  // Longest sleep: a process that is killed within Ring may take a wake with it.
  static constexpr absl::Duration kMaxSleep = absl::Milliseconds(100);

  // `words` outlive the doorbell.
  explicit Doorbell(DoorbellWords* words) : words_(words) {}

  uint32_t count() const { return words_->count.load(std::memory_order_acquire); }
  // From any thread. A system call only when the waiter sleeps.
  void Ring();
  // From one thread at a time. Returns once count() is not `seen`, at the deadline, or without
  // cause. Looks for `spin` before it sleeps, unless this process has one core only.
  void Wait(uint32_t seen, absl::Time deadline, absl::Duration spin);

 private:
  DoorbellWords* words_;
};

}  // namespace m1
