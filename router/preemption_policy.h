// Who makes room for a waiting request of higher priority.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace m1 {

// What a start takes of one worker, or what is free on it.
struct Room {
  int64_t slots = 0;
  int64_t kv_blocks = 0;

  bool Holds(const Room& needed) const {
    return slots >= needed.slots && kv_blocks >= needed.kv_blocks;
  }
};

// A sequence that runs on the worker, or a prompt that is kept there.
struct PreemptionCandidate {
  int64_t id = 0;  // any name
  int32_t priority = 0;
  absl::Time head_start;  // see work_queue.h
  int64_t arrival_order = 0;
  int64_t kv_blocks = 0;            // that it gives back
  bool is_being_preempted = false;  // was asked before
};

// Ids of those to preempt for a waiting request: lowest priority first, then the youngest, no more
// than it takes. Only lower priorities go, and of them only those that would not be started again
// before the waiting one: age protects them. Empty: what was asked before will do. Absent: no room
// can be made.
std::optional<std::vector<int64_t>> ChooseVictims(int32_t priority, absl::Time head_start,
                                                  const Room& needed, Room free,
                                                  std::vector<PreemptionCandidate> running);

}  // namespace m1
