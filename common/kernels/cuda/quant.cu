#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/quant_kernel.h"
#include "common/kernels/cuda/quant_rows_kernel.h"

namespace m1::cuda {
namespace {

template <typename Act>
__global__ void __launch_bounds__(kQuantizeThreads)
    RunQuantizeRows(const __grid_constant__ QuantizeRowsArgs<Act> args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  QuantizeRowsKernel<Act>(thread, args);
}

// 1 block: no register is spilled so that more blocks might fit.
template <typename Shape, typename Out>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    RunQuantProduct(const __grid_constant__ QuantProductArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  QuantProductKernel<Shape, Out>(thread, args);
}

template <typename Act>
LaunchError LaunchQuantize(const QuantizeRowsArgs<Act>& args, int rows, LaunchTarget target) {
  if (!TakesQuantRows(args.order, args.k)) return cudaErrorInvalidValue;
  return LaunchKernel(RunQuantizeRows<Act>, QuantizeRowsGrid(rows), args, target);
}

template <typename Shape, typename Out>
LaunchError Launch(const QuantProductArgs& args, LaunchTarget target) {
  return LaunchKernel(RunQuantProduct<Shape, Out>, ProductGrid<Shape>(args), args, target);
}

}  // namespace

LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<float>& args, int rows, LaunchTarget target) {
  return LaunchQuantize(args, rows, target);
}
LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<Bf16>& args, int rows, LaunchTarget target) {
  return LaunchQuantize(args, rows, target);
}

LaunchError LaunchQuantLinear(const QuantProductArgs& args, OutType out, LaunchTarget target) {
  if (!TakesQuantArgs(args)) return cudaErrorInvalidValue;
  return ForQuantLinear(args, [&]<typename Shape>() {
    return out == OutType::kF32 ? Launch<Shape, float>(args, target)
                                : Launch<Shape, Bf16>(args, target);
  });
}

LaunchError LaunchQuantGatedUp(const QuantProductArgs& args, LaunchTarget target) {
  if (!TakesQuantArgs(args)) return cudaErrorInvalidValue;
  return ForQuantGated(args, [&]<typename Shape>() { return Launch<Shape, Bf16>(args, target); });
}

}  // namespace m1::cuda
