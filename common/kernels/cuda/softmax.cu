#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/softmax_kernel.h"

namespace m1::cuda {
namespace {

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    RunSegments(const __grid_constant__ SoftmaxArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  SoftmaxSegmentsKernel<Shape>(thread, args);
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    RunPrompt(const __grid_constant__ SoftmaxArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  SoftmaxPromptKernel<Shape>(thread, args);
}

__global__ void __launch_bounds__(kMergeThreads)
    RunMerge(const __grid_constant__ SoftmaxArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  SoftmaxMergeKernel(thread, args);
}

}  // namespace

LaunchError LaunchSoftmaxFew(const SoftmaxArgs& args, LaunchTarget target) {
  if (!IsSoftmaxHeadDim(args.head_dim)) return cudaErrorInvalidValue;
  const LaunchError error = ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxFew<head_dim>;
    return LaunchKernel(RunSegments<Shape>, SoftmaxSegmentsGrid<Shape>(args), args, target);
  });
  return error != cudaSuccess ? error
                              : LaunchKernel(RunMerge, SoftmaxMergeGrid(args), args, target);
}

LaunchError LaunchSoftmaxMany(const SoftmaxArgs& args, LaunchTarget target) {
  if (!IsSoftmaxHeadDim(args.head_dim)) return cudaErrorInvalidValue;
  return ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxMany<head_dim>;
    return LaunchKernel(RunPrompt<Shape>, SoftmaxPromptGrid<Shape>(args), args, target);
  });
}

}  // namespace m1::cuda
