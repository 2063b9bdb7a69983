#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/product_kernel.h"

namespace m1::cuda {
namespace {

template <typename Shape, typename Out>
__global__ void __launch_bounds__(Shape::kThreads)
    RunProduct(const __grid_constant__ ProductArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  ProductKernel<Shape, Out>(thread, args);
}

template <typename One, typename Few, typename Many, typename Out>
LaunchError LaunchForRows(const ProductArgs& args, LaunchTarget target) {
  return ForShape<One, Few, Many>(args, [&]<typename Shape>() {
    return LaunchKernel(RunProduct<Shape, Out>, ProductGrid<Shape>(args), args, target);
  });
}

}  // namespace

LaunchError LaunchLinear(const ProductArgs& args, OutType out, LaunchTarget target) {
  return out == OutType::kF32 ? LaunchForRows<LinearOne, LinearFew, LinearMany, float>(args, target)
                              : LaunchForRows<LinearOne, LinearFew, LinearMany, Bf16>(args, target);
}

// Its output is an activation row.
LaunchError LaunchGatedUp(const ProductArgs& args, LaunchTarget target) {
  return LaunchForRows<GatedOne, GatedFew, GatedMany, Bf16>(args, target);
}

LaunchError LaunchSplitLinear(const ProductArgs& args, LaunchTarget target) {
  return LaunchForRows<SplitOne, SplitFew, SplitMany, float>(args, target);
}

}  // namespace m1::cuda
