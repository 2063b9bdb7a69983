// What `m1 up` starts: options, and from them the command line of every process. No processes here.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

enum class ProcessKind { kExpertWorker, kAttentionWorker, kRouter };

// "m1-expert-worker" ...: the file name of its executable.
absl::string_view BinaryName(ProcessKind kind);
// "expert worker" ...: for people.
absl::string_view KindName(ProcessKind kind);

struct UpOptions {
  std::string model = "models/tiny";
  int expert_workers = 2;
  int attention_workers = 1;
  // Port of the router; 0 picks a free one.
  int port = 50051;
  // HTTP port of the router's metrics, those of the workers follow it: attention workers, then
  // expert workers. 0: none.
  int metrics_port = 0;
  // "shm", "grpc" or "inproc": how the attention worker reaches the experts.
  std::string transport = "shm";
  // Workers keep their compute threads on one core each.
  bool pin = false;
  // Flags that a server knows and m1 does not: (name without dashes, value).
  std::vector<std::pair<std::string, std::string>> passed_on;

  // Errors: InvalidArgument naming the flag.
  absl::Status Validate() const;
  // Of passed_on, the last one wins; empty: not given.
  std::string PassedOn(absl::string_view name) const;
  // Whether workers shall pin their threads where --pin does not say: when m1 may use every core of
  // the machine and nobody chose the number of threads, that is, when the machine is the cluster's.
  bool PinsByDefault(int num_allowed_cores, int num_machine_cores) const;
};

// True when at least one kind of server takes --name. `m1 up` refuses others at once.
bool IsServerFlag(absl::string_view name);

// Arguments (without the program name) of one process. `expert_addresses`: of all expert workers,
// `attention_addresses`: of all attention workers; each is read only by the kinds that need it.
struct ProcessArgsInput {
  ProcessKind kind = ProcessKind::kRouter;
  int index = 0;
  // 0: free port. Otherwise the port that the process had before it was started again.
  int port = 0;
  std::vector<std::string> expert_addresses;
  std::vector<std::string> attention_addresses;
};
std::vector<std::string> ProcessArgs(const UpOptions& options, const ProcessArgsInput& input);

}  // namespace m1
