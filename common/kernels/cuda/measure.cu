#include <cstring>

#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/measure.h"

namespace m1::cuda {
namespace {

template <PeakKind kind>
__global__ void __launch_bounds__(kMeasureThreads) RunPeak(const __grid_constant__ PeakArgs args) {
  CudaThread thread(nullptr);
  Peak<kind>::Run(thread, args);
}

__global__ void __launch_bounds__(kMeasureThreads)
    RunReadAll(const __grid_constant__ ReadArgs args) {
  CudaThread thread(nullptr);
  ReadAll::Run(thread, args);
}

}  // namespace

LaunchError DescribeGpu(GpuDescription* description) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return error;
  static_assert(sizeof(description->name) == sizeof(properties.name));
  std::memcpy(description->name, properties.name, sizeof(properties.name));
  description->capability = 10 * properties.major + properties.minor;
  description->multiprocessors = properties.multiProcessorCount;
  return cudaSuccess;
}

struct Stopwatch {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
};

LaunchError OpenStopwatch(Stopwatch** stopwatch) {
  *stopwatch = new Stopwatch;
  const cudaError_t error = cudaEventCreate(&(*stopwatch)->begin);
  return error != cudaSuccess ? error : cudaEventCreate(&(*stopwatch)->end);
}
void CloseStopwatch(Stopwatch* stopwatch) {
  if (stopwatch->begin != nullptr) cudaEventDestroy(stopwatch->begin);
  if (stopwatch->end != nullptr) cudaEventDestroy(stopwatch->end);
  delete stopwatch;
}
LaunchError StartStopwatch(Stopwatch* stopwatch, Stream stream) {
  return cudaEventRecord(stopwatch->begin, stream);
}
LaunchError StopStopwatch(Stopwatch* stopwatch, Stream stream) {
  return cudaEventRecord(stopwatch->end, stream);
}
LaunchError ReadStopwatch(const Stopwatch& stopwatch, double* seconds) {
  cudaError_t error = cudaEventSynchronize(stopwatch.end);
  float milliseconds = 0.0f;
  if (error == cudaSuccess) {
    error = cudaEventElapsedTime(&milliseconds, stopwatch.begin, stopwatch.end);
  }
  *seconds = 1e-3 * milliseconds;
  return error;
}

LaunchError CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

LaunchError LaunchPeak(PeakKind kind, const PeakArgs& args, Stream stream) {
  switch (kind) {
    case PeakKind::kBf16:
      return LaunchKernel(RunPeak<PeakKind::kBf16>, MeasureGrid(args), args, stream);
    case PeakKind::kInt8:
      return LaunchKernel(RunPeak<PeakKind::kInt8>, MeasureGrid(args), args, stream);
    case PeakKind::kFloat:
      return LaunchKernel(RunPeak<PeakKind::kFloat>, MeasureGrid(args), args, stream);
  }
  return cudaErrorInvalidValue;
}

LaunchError LaunchReadAll(const ReadArgs& args, Stream stream) {
  return LaunchKernel(RunReadAll, MeasureGrid(args), args, stream);
}

}  // namespace m1::cuda
