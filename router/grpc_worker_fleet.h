// The streams to all attention workers. Addresses behind dns:/// names are resolved again and
// again: a worker that appears is reached for, one that is gone from its name is left, and what it
// ran goes on elsewhere.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "common/rpc/address_watcher.h"
#include "router/dispatcher.h"
#include "router/worker_stream.h"

namespace m1 {

struct WorkerFleetOptions {
  std::vector<std::string> addresses;
  std::string router_id;
  absl::Duration resolve_interval = absl::Seconds(5);
  AddressResolver resolver = ResolveWithSystem;
  const Security* security = nullptr;  // as of WorkerStreamOptions
};

// Thread-safe. A worker's index is its place in streams(); that of one that left is given to the
// next that comes.
class WorkerFleet {
 public:
  // `dispatcher` must outlive the fleet. Nothing happens before Start.
  WorkerFleet(WorkerFleetOptions options, Dispatcher* dispatcher);
  // Ends all streams; the dispatcher hears of it.
  ~WorkerFleet();

  void Start();

  // By worker index; null where no worker is now. Whoever asks about a worker shares its stream for
  // as long as that takes.
  std::vector<std::shared_ptr<WorkerStream>> streams() const;

 private:
  // On the watcher's thread, or inside Start.
  void SetAddresses(const std::vector<std::string>& addresses);
  void Add(const std::string& address);
  void Remove(size_t index);

  const WorkerFleetOptions options_;
  Dispatcher* const dispatcher_;
  mutable Mutex mutex_;  // one thread at a time changes streams_, others read
  std::vector<std::shared_ptr<WorkerStream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<AddressWatcher> watcher_;
};

}  // namespace m1
