#include "tests/bench/gpu_timer.h"

#include <string>

#include "common/base/check.h"

namespace m1 {
namespace {

void Check(cuda::LaunchError error) { M1_CHECK_MSG(error == 0, cuda::ErrorName(error)); }

}  // namespace

GpuTimer::GpuTimer(KernelBackend* backend, cuda::Stream stream, int64_t lead_bytes)
    : backend_(backend),
      stream_(stream),
      lead_from_(backend->NewTensor(DType::kI8, {lead_bytes})),
      lead_to_(backend->NewTensor(DType::kI8, {lead_bytes})) {
  Check(cuda::OpenStopwatch(&stopwatch_));
}

GpuTimer::~GpuTimer() { cuda::CloseStopwatch(stopwatch_); }

std::vector<double> GpuTimer::Measure(int calls, int repeats,
                                      absl::FunctionRef<absl::Status()> call) {
  std::vector<double> seconds;
  for (int repeat = 0; repeat <= repeats; ++repeat) {
    Check(cuda::CopyOnDevice(lead_to_.view().data(), lead_from_.view().data(),
                             static_cast<size_t>(lead_from_.view().num_bytes()), stream_));
    Check(cuda::StartStopwatch(stopwatch_, stream_));
    absl::Status status;
    for (int i = 0; i < calls && status.ok(); ++i) status = call();
    if (status.ok()) status = backend_->Submit();
    M1_CHECK_MSG(status.ok(), std::string(status.message()));
    Check(cuda::StopStopwatch(stopwatch_, stream_));
    double all = 0.0;
    Check(cuda::ReadStopwatch(*stopwatch_, &all));
    if (repeat > 0) seconds.push_back(all / calls);
  }
  return seconds;
}

}  // namespace m1
