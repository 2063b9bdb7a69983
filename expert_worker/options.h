// What an expert worker is told at start. main.cc fills it from flags; nobody else reads flags.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/worker/worker_model.h"

namespace m1 {

struct ExpertWorkerOptions {
  WorkerModelOptions model;
  std::string address = "127.0.0.1";  // to listen on; or "unix:PATH"
  int32_t port = 0;                   // 0: a free one
  std::string experts;                // "0-7,12"; "" with an empty shard: all
  std::string shard;                  // "I/N": the Ith of N equal shares; or "POD-I/N"
  bool shared_memory = true;          // offered to attention workers of this host
  std::string trace_file;             // of the runs; empty: none
  absl::Duration exchange_spin;       // looking for the next dispatch before sleeping
};

// Errors: InvalidArgument naming the flag, its value and what it may be.
absl::Status Validate(const ExpertWorkerOptions& options);

// The experts that the flags name, of a model's num_experts. Errors: InvalidArgument naming the
// flag.
absl::StatusOr<std::vector<int32_t>> HostedExperts(const ExpertWorkerOptions& options,
                                                   int32_t num_experts);

}  // namespace m1
