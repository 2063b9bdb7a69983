// How much one worker may still be given: its last credits less what was started since.
//
// A worker computes credits after it had handled every start up to a number; starts sent later are
// not counted in, so the router subtracts them itself. Several routers share a worker, and each is
// granted all that is free: what they start at once beyond it waits at the worker, and credits are
// less by what waits.
#pragma once

#include <cstdint>
#include <deque>

#include "router/worker_protocol.h"

namespace m1 {

// Blocks that a worker wants free before it admits a sequence: those of its tokens and one more to
// go on with, where the pool has one.
int64_t KvBlocksToStart(int64_t num_tokens, int64_t pool_blocks);

// Not thread-safe. A new stream begins with a new ledger.
class CreditLedger {
 public:
  // Credits with an older handled_start_count than before, or a larger one than was ever sent, are
  // taken as they are: the worker's word counts, and its own queue is the safety net.
  void Update(const WorkerCredits& credits);

  bool CanStart(int64_t kv_blocks) const;
  // Records a start that is being sent.
  void Start(int64_t kv_blocks);

  bool ready() const { return credits_.ready; }
  int64_t available_slots() const;
  int64_t available_kv_blocks() const;

 private:
  struct UncountedStart {
    int64_t number = 0;  // 1 for the first start of the stream
    int64_t kv_blocks = 0;
  };

  WorkerCredits credits_;
  int64_t num_started_ = 0;
  std::deque<UncountedStart> uncounted_;
  int64_t uncounted_kv_blocks_ = 0;
};

}  // namespace m1
