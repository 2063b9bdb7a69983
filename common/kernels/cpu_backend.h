// The CPU backend: run-time choice among the instruction sets this machine has, threads inside.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/kernels/backend.h"

namespace m1 {

struct CpuBackendOptions {
  int num_threads = 1;
  // "" picks the best; else "portable", "avx2", "avx512", "avx512vnni" or "avx512bf16".
  std::string target;
  // Empty: the system chooses where threads run. Else thread i stays on cores[i], from the first
  // operation on; the thread that calls the backend is thread 0.
  std::vector<int> cores = {};
};

// Targets compiled in that this machine can run, best first. AVX-512-BF16 is left out, with a log
// line, when its dot product differs from two fused multiply-adds on random lanes.
std::vector<std::string> SupportedCpuTargets();
// All targets compiled in.
std::vector<std::string> CompiledCpuTargets();

// Errors: InvalidArgument for an unknown target or a thread count outside [1, 1024] or
// above the number of cores, FailedPrecondition for one that this machine cannot run.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateCpuBackend(const CpuBackendOptions& options);

}  // namespace m1
