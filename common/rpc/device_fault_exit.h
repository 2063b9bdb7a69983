// The end of a process whose device is of no use any more. Who restarts processes gets it a device
// that works, and neighbours do what they do when a process dies: its work is done elsewhere.
#pragma once

#include "absl/status/status.h"

#include "common/base/mutex.h"

namespace m1 {

class ServerRunner;

// Thread-safe.
class DeviceFaultExit {
 public:
  // What says to others that it serves, until the next call; null: nothing does. Not within End.
  void SetServer(ServerRunner* server);
  // Logs the fault, is not serving, and ends the process with kDeviceFaultExitCode. Called by who
  // met the fault, which is held here: no answer is made of it.
  [[noreturn]] void End(const absl::Status& fault);

 private:
  Mutex mutex_;
  ServerRunner* server_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace m1
