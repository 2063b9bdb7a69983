// Ends channels, each on a thread of its own: an abort may wait for the device's other work, and so
// for the transfers of another channel that is to be aborted too. Thread-safe.
#pragma once

#include <list>
#include <memory>
#include <thread>

#include "common/base/mutex.h"
#include "common/nccl/channel.h"
#include "common/nccl/link_memory.h"

namespace m1::nccl {

class Reaper {
 public:
  Reaper() = default;
  // Waits for all that it was given.
  ~Reaper();
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

  // The memory that the channel uses is held until it has ended.
  void End(std::unique_ptr<Channel> channel, std::shared_ptr<LinkMemory> memory);

 private:
  struct Job {
    std::thread thread;
    bool is_done = false;
  };

  void JoinDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  std::list<Job> jobs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1::nccl
