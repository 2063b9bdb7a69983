// Sends planned requests to a router at their times and notes when their tokens come.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "m1/v1/inference.grpc.pb.h"
#include "tools/bench/serve_metrics.h"
#include "tools/bench/workload.h"
#include "tools/m1/connection.h"

namespace m1 {

struct LoadOptions {
  int max_concurrency = 0;                  // 0: as many as arrive
  int num_connections = 1;                  // taken in turn by requests
  double temperature = 0;                   // 0: greedy
  bool ignore_eos = true;                   // answers have their planned length
  uint64_t seed = 0;                        // request i draws with seed + i
  absl::Duration timeout = absl::Hours(1);  // of a request
};

struct LoadProgress {
  int64_t num_done = 0;
  int64_t num_running = 0;
  int64_t num_tokens = 0;
  double seconds = 0;
};

// Not thread-safe; one thread for each request in flight inside.
class LoadClient {
 public:
  LoadClient(Connection connection, const LoadOptions& options);

  // Errors: Unavailable when nobody answers within `timeout`.
  absl::StatusOr<v1::GetModelInfoResponse> ModelInfo(absl::Duration timeout);

  // Records in the order of `plan`; a request that fails has an error in its record. `on_progress`
  // is called ten times a second from a thread of its own. `duration_s`: until the last one ended.
  std::vector<RequestRecord> Run(const std::vector<PlannedRequest>& plan,
                                 const std::function<void(const LoadProgress&)>& on_progress,
                                 double* duration_s);

 private:
  const Connection connection_;
  const LoadOptions options_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
};

}  // namespace m1
