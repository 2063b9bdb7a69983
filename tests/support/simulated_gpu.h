// A GPU in the simulator of cuda_simulator.h: defines launch.h, runtime.h and measure.h, for tests
// that run CudaKernelBackend without a GPU. There is one; any thread may use it. All backends share
// one stream of kernels, so that the order between two of them is not simulated; transfer streams
// are their own.
//
// Nothing that is enqueued happens before somebody waits or asks: what reads results, or reuses
// memory, too early fails here and not once in a while. The host cannot touch the device's memory
// (it would end with SIGSEGV), kernels not the host's. A fault of a kernel is an error that sticks,
// as on a GPU. Processes with --device cuda have such a fault when they get SIGUSR1.
#pragma once

#include <cstdint>
#include <functional>

#include "common/kernels/cuda/launch.h"

namespace m1::cuda {

inline constexpr int64_t kSimulatedGpuBytes = int64_t{1} << 30;

struct SimulatedGpuStats {
  int64_t launches = 0;  // each takes a millisecond of the device's time
  int64_t mmas = 0;      // of warps
  int64_t bank_conflicts = 0;
  int64_t allocated_bytes = 0;  // now
  int64_t pinned_bytes = 0;     // of the host's memory, now
  int64_t pageable_copies = 0;  // between the device and memory of the host's that is not pinned
  int64_t allocations = 0;      // of the device's memory and of pinned
  int64_t graphs = 0;           // now
  int64_t graph_runs = 0;
};

SimulatedGpuStats GetSimulatedGpuStats();

// The device is lost before what it does next. May be called from a signal's handler.
void LoseSimulatedGpu();

// No more of the host's memory than this can be pinned.
void LimitPinnedMemory(int64_t bytes);

// The fault is forgotten, and what was enqueued: for tests of faults.
void ResetSimulatedGpu();

// Work that a fake of a library does on the device, where it may touch its memory; false when it
// cannot be done yet: it and what the stream was given after it are tried again later.
using SimulatedWork = std::function<bool()>;
[[nodiscard]] LaunchError EnqueueSimulated(Stream stream, SimulatedWork work);

}  // namespace m1::cuda
