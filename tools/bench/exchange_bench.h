// Round trips between two processes: rows to an expert worker and its answers back by each
// transport, beside raw ping-pongs of the same bytes (raw_ping_pong.h). The ways take turns within
// one run, since a machine's wake-up times differ from minute to minute.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace m1 {

struct ExchangeBenchOptions {
  std::vector<int64_t> rows = {1, 4, 16, 64, 1024};  // of a dispatch
  int32_t hidden_size = 1024;                        // elements of a row, bf16
  int num_rounds = 2000;  // round trips of a repeat; large ones make fewer
  int num_repeats = 5;
  absl::Duration spin;  // before an end of shared memory sleeps
  // All processes on one core: otherwise a wake takes 5 or 40 us as the kernel pleases, and a ratio
  // compares its moods.
  bool one_core = true;
  std::string directory;  // for the workers' sockets
};

// One way, one number of rows: medians over the repeats.
struct ExchangeFigure {
  std::string way;  // shm, raw_futex, grpc or raw_socket
  std::string raw;  // the raw way it is held against; empty for these
  int64_t rows = 0;
  int64_t bytes = 0;  // each way
  double p50_s = 0;   // of a round trip
  double p99_s = 0;
  double ratio = 0;  // p50 to that of the raw way; 0 for raw ways

  // There and back.
  double bytes_per_s() const { return 2 * static_cast<double>(bytes) / p50_s; }
};

// Forks: call it before anything starts a thread. Errors: Unavailable when a transport cannot be
// had here.
absl::Status BenchExchangeWays(const ExchangeBenchOptions& options,
                               const std::function<void(const ExchangeFigure&)>& on_figure);

}  // namespace m1
