#include "common/model/parallel_load.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "common/base/mutex.h"

namespace m1 {
namespace {

// Enough for a disk to have work at all times, and for two cores to copy.
constexpr size_t kThreads = 4;

}  // namespace

absl::Status ParallelLoad::Run(size_t num_pieces,
                               absl::FunctionRef<absl::StatusOr<int64_t>(size_t)> load) {
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  Mutex mutex;  // guards status, done_bytes_ and the call of progress_
  absl::Status status;
  const auto finish = [&](const absl::StatusOr<int64_t>& bytes) {
    MutexLock lock(&mutex);
    if (!status.ok()) return;
    if (bytes.ok()) {
      done_bytes_ += *bytes;
      if (!progress_ || progress_(done_bytes_, total_bytes_)) return;
    }
    status = bytes.ok() ? absl::CancelledError("loading was stopped") : bytes.status();
    stop.store(true);
  };
  const auto work = [&] {
    for (;;) {
      const size_t piece = next.fetch_add(1);
      if (piece >= num_pieces || stop.load()) return;
      finish(load(piece));
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kThreads, num_pieces); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace m1
