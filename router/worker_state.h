// One attention worker as the scheduler sees it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/container/flat_hash_map.h"

#include "router/credits.h"
#include "router/preemption_policy.h"
#include "router/sample_group.h"
#include "router/sequence.h"
#include "router/worker_protocol.h"

namespace m1 {

// A prompt whose group a worker was told of and has not been told to release.
struct NamedPrompt {
  std::shared_ptr<const SampleGroup> group;
  bool is_kept = true;  // or being computed, as far as is known
};

struct WorkerState {
  bool is_connected = false;
  FleetIdentity identity;
  WorkerLimits limits;  // of the last connection
  CreditLedger ledger;
  absl::flat_hash_map<int64_t, RoutedSequence*> running;  // by worker_sequence_id
  int64_t next_sequence_id = 1;                           // of the stream
  int64_t outstanding_tokens = 0;
  std::map<int64_t, NamedPrompt> prompts;  // by group
  // Of prompts that it was told to drop; free, but in none of the credits for so many steps more.
  Room dropped;
  int steps_until_dropped = 0;

  bool Keeps(const SampleGroup& group) const {
    const auto found = prompts.find(group.id);
    return found != prompts.end() && found->second.is_kept;
  }
  bool is_ready() const { return is_connected && ledger.ready(); }
};

}  // namespace m1
