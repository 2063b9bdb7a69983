// Keeps the processes of `m1 up` running: starts expert workers, then attention workers, then routers, each
// kind once the ones before told their addresses; starts a process that died again on its old port; ends all.
// Single-threaded: the caller waits on PollFds() and calls Step().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "tools/m1/child_process.h"
#include "tools/m1/restart_policy.h"
#include "tools/m1/up_options.h"

namespace m1 {

class Supervisor {
 public:
  // `binary_folder`: where the servers' executables are.
  Supervisor(UpOptions options, std::string binary_folder);

  // Starts what can be started, takes in addresses and deaths. Errors: a process that ended before it
  // ever listened, with what it said by its exit code: InvalidArgument (2), DataLoss (3), Internal.
  absl::Status Step(absl::Time now);
  // Readable when Step has something to do.
  std::vector<int> PollFds() const;
  // "127.0.0.1:P" of the router; empty before it listens.
  const std::string& router_address() const { return slots_.back().address; }
  // One line for people: what is still starting, and how much of it is loaded.
  std::string ProgressText() const;
  // SIGTERM to the router, then to the attention workers, then to the expert workers; SIGKILL to what is left after
  // `grace`, or at once when `hurry` returns true.
  void StopAll(absl::Duration grace, const std::function<bool()>& hurry);

 private:
  struct Slot {
    ProcessKind kind;
    int index;
    std::unique_ptr<ChildProcess> process;  // null: not running
    std::string address;                    // empty until it first listened
    int port = 0;
    RestartPolicy restart_policy;
    absl::Time started_at = absl::InfinitePast();
    absl::Time start_after = absl::InfinitePast();
  };

  bool AllListen(ProcessKind kind) const;
  std::vector<std::string> Addresses(ProcessKind kind) const;
  absl::Status StartSlot(Slot* slot, absl::Time now);
  // False: not all ended in time.
  bool StopKind(ProcessKind kind, absl::Time deadline, const std::function<bool()>& hurry);
  absl::Status HandleDeath(Slot* slot, absl::Time now);
  void ReadLines(Slot* slot);
  std::string Name(const Slot& slot) const;

  const UpOptions options_;
  const std::string binary_folder_;
  std::vector<Slot> slots_;  // in order of start; the router is last
};

}  // namespace m1
