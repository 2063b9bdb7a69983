// What benchmarks ask of a GPU beside its kernels: its time, and its ceilings. Plain functions as
// in launch.h and runtime.h, defined by measure.cu for a GPU and by tests/support/simulated_gpu.cc.
#pragma once

#include <cstddef>

#include "common/kernels/cuda/measure_kernels.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

struct GpuDescription {
  char name[256] = "";
  int capability = 0;  // compute capability times ten
  int multiprocessors = 0;
};
[[nodiscard]] LaunchError DescribeGpu(GpuDescription* description);

// How long a stream takes from one place to another, by the clock of the device.
struct Stopwatch;
[[nodiscard]] LaunchError OpenStopwatch(Stopwatch** stopwatch);
void CloseStopwatch(Stopwatch* stopwatch);
[[nodiscard]] LaunchError StartStopwatch(Stopwatch* stopwatch, Stream stream);
[[nodiscard]] LaunchError StopStopwatch(Stopwatch* stopwatch, Stream stream);
// Waits until it was stopped.
[[nodiscard]] LaunchError ReadStopwatch(const Stopwatch& stopwatch, double* seconds);

[[nodiscard]] LaunchError CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream);

// measure_kernels.h
[[nodiscard]] LaunchError LaunchPeak(PeakKind kind, const PeakArgs& args, Stream stream);
[[nodiscard]] LaunchError LaunchReadAll(const ReadArgs& args, Stream stream);

}  // namespace m1::cuda
