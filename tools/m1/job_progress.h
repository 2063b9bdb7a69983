// What a long job over bytes calls as it goes on: shows how far it is, on one line of a terminal, and says whether to go
// on, which Ctrl-C ends.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>

#include "tools/m1/interrupt.h"

namespace m1 {

class JobProgress {
 public:
  // Before any other thread is made: see BlockInterrupt.
  JobProgress() {
    BlockInterrupt();
    watcher_.emplace([this] { interrupted_ = true; });
  }
  JobProgress(const JobProgress&) = delete;
  JobProgress& operator=(const JobProgress&) = delete;
  ~JobProgress() {
    if (shown_percent_ >= 0) std::fputc('\n', stderr);
  }

  // False: end.
  bool Show(int64_t done_bytes, int64_t total_bytes) {
    const int percent = total_bytes == 0 ? 100 : static_cast<int>(done_bytes * 100 / total_bytes);
    if (terminal_ && percent != shown_percent_) {
      std::fprintf(stderr, "\r%3d %% of %lld MiB", percent, static_cast<long long>(total_bytes >> 20));
      shown_percent_ = percent;
    }
    return !interrupted_;
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  int shown_percent_ = -1;
  std::atomic<bool> interrupted_ = false;
  std::optional<InterruptWatcher> watcher_;
};

}  // namespace m1
