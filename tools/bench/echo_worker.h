// An expert worker that computes nothing, in a process of its own: it returns each row as the
// answer of its pair, by shared memory and by gRPC. What is left is the transport's cost.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/rpc/remote_exchange.h"

namespace m1 {

struct EchoWorkerOptions {
  int32_t hidden_size = 0;
  int32_t max_rows = 0;  // of a frame
  std::string address;   // where to listen: a host, or unix:PATH
  absl::Duration spin;   // before an end of shared memory sleeps
};

class EchoWorker {
 public:
  // Forks: call it before gRPC or anything else starts a thread. Errors: Unavailable when the
  // process does not come up.
  static absl::StatusOr<std::unique_ptr<EchoWorker>> Start(const EchoWorkerOptions& options);
  // Kills the process.
  ~EchoWorker();
  EchoWorker(const EchoWorker&) = delete;
  EchoWorker& operator=(const EchoWorker&) = delete;

  // An exchange with it. Errors: Unavailable when it is not reached that way within ten seconds.
  absl::StatusOr<std::unique_ptr<RemoteExchange>> Connect(bool over_shm) const;

 private:
  EchoWorker(const EchoWorkerOptions& options, pid_t pid, std::string target)
      : options_(options), pid_(pid), target_(std::move(target)) {}

  const EchoWorkerOptions options_;
  const pid_t pid_;
  const std::string target_;
};

}  // namespace m1
