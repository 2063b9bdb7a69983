// How long operations take on a GPU, by its own clock.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "common/kernels/backend.h"
#include "common/kernels/cuda/measure.h"
#include "common/tensor/tensor.h"

namespace m1 {

class GpuTimer {
 public:
  // Copies `lead_bytes` before each measurement: while that runs, the host enqueues what is
  // measured, so that launches do not wait for it. Aborts on errors of the device.
  GpuTimer(KernelBackend* backend, cuda::Stream stream, int64_t lead_bytes);
  ~GpuTimer();
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  // Seconds of one of `calls` calls in a row, of each repeat; one more warms up. `call` must not
  // wait for the device.
  std::vector<double> Measure(int calls, int repeats, absl::FunctionRef<absl::Status()> call);

 private:
  KernelBackend* const backend_;
  const cuda::Stream stream_;
  Tensor lead_from_, lead_to_;
  cuda::Stopwatch* stopwatch_ = nullptr;
};

}  // namespace m1
