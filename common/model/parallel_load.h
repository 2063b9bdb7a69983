// Loads pieces of a checkpoint on several threads: disks answer many readers faster than one, and
// what lies in the page cache is copied by all cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

// Called after every few megabytes with the bytes done and those of the whole job, by one thread at
// a time; false stops it.
using PrefetchProgress = std::function<bool(int64_t done_bytes, int64_t total_bytes)>;

// Thread-compatible. One job of `total_bytes` in one or more runs.
class ParallelLoad {
 public:
  // `progress` may be null; it is called by the threads of Run.
  ParallelLoad(int64_t total_bytes, const PrefetchProgress& progress)
      : total_bytes_(total_bytes), progress_(progress) {}

  // Calls load(i) for i in [0, num_pieces), each once and in about this order; it returns the bytes
  // that it loaded. Errors: the first of `load`; Cancelled (`progress` returned false). No piece is
  // begun after an error, and none is under way when this returns.
  absl::Status Run(size_t num_pieces, absl::FunctionRef<absl::StatusOr<int64_t>(size_t)> load);

 private:
  const int64_t total_bytes_;
  const PrefetchProgress& progress_;
  int64_t done_bytes_ = 0;
};

}  // namespace m1
