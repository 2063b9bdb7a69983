// A GPU in the simulator of cuda_simulator.h: defines launch.h and runtime.h, for tests that run
// CudaKernelBackend without a GPU. There is one, with one stream, and one thread uses it.
//
// There being one stream, order between streams is not simulated. Nothing that is enqueued happens
// before somebody waits: what reads results, or reuses memory, too early fails here and not once in
// a while. The host cannot touch the device's memory (it would end with SIGSEGV), kernels not the
// host's. A fault of a kernel is an error that sticks, as on a GPU. Processes with --device cuda
// have such a fault when they get SIGUSR1.
#pragma once

#include <cstdint>

namespace m1::cuda {

inline constexpr int64_t kSimulatedGpuBytes = int64_t{1} << 30;

struct SimulatedGpuStats {
  int64_t launches = 0;
  int64_t mmas = 0;  // of warps
  int64_t bank_conflicts = 0;
  int64_t allocated_bytes = 0;  // now
};

SimulatedGpuStats GetSimulatedGpuStats();

// The device is lost before what it does next. May be called from a signal's handler.
void LoseSimulatedGpu();

// The fault is forgotten, and what was enqueued: for tests of faults.
void ResetSimulatedGpu();

}  // namespace m1::cuda
