#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/row_bodies.h"

namespace m1::cuda {
namespace {

template <typename Body, typename Args>
__global__ void __launch_bounds__(kElementThreads, 1) RunRows(const __grid_constant__ Args args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  Body::Run(thread, args);
}

template <typename Body, typename Args>
LaunchError Launch(const LaunchGrid& grid, const Args& args, LaunchTarget target) {
  return LaunchKernel(RunRows<Body, Args>, grid, args, target);
}

}  // namespace

LaunchError LaunchCopyRows(const CopyRowsArgs& args, int word_bytes, LaunchTarget target) {
  if (word_bytes == 16) return Launch<CopyRows<Words4>>(GridOf(args), args, target);
  return word_bytes == 4 ? Launch<CopyRows<uint32_t>>(GridOf(args), args, target)
                         : Launch<CopyRows<unsigned char>>(GridOf(args), args, target);
}
LaunchError LaunchDot(const DotArgs& args, LaunchTarget target) {
  return Launch<Dot>(GridOf(args), args, target);
}
LaunchError LaunchEmbed(const EmbedArgs<float>& args, LaunchTarget target) {
  return Launch<Embed>(GridOf(args), args, target);
}
LaunchError LaunchEmbed(const EmbedArgs<Bf16>& args, LaunchTarget target) {
  return Launch<Embed>(GridOf(args), args, target);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<float>& args, int rows, LaunchTarget target) {
  return Launch<RmsNorm>(RmsNormGrid(rows), args, target);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<Bf16>& args, int rows, LaunchTarget target) {
  return Launch<RmsNorm>(RmsNormGrid(rows), args, target);
}
LaunchError LaunchRound(const RoundArgs<Bf16>& args, LaunchTarget target) {
  return Launch<Round>(GridOf(args), args, target);
}
LaunchError LaunchSplit(const SplitArgs& args, LaunchTarget target) {
  return Launch<Split>(GridOf(args), args, target);
}
LaunchError LaunchScaledAdd(const ScaledAddArgs& args, LaunchTarget target) {
  return Launch<ScaledAdd>(GridOf(args), args, target);
}
LaunchError LaunchSigmoidMul(const SigmoidMulArgs<Bf16>& args, LaunchTarget target) {
  return Launch<SigmoidMul>(GridOf(args), args, target);
}
LaunchError LaunchTopKGate(const TopKGateArgs& args, LaunchTarget target) {
  return Launch<TopKGate>(TopKGateGrid(args.rows), args, target);
}
LaunchError LaunchCombine(const CombineArgs<Bf16>& args, LaunchTarget target) {
  return Launch<Combine>(GridOf(args), args, target);
}
LaunchError LaunchSharedMix(const SharedMixArgs& args, LaunchTarget target) {
  return Launch<SharedMix>(GridOf(args), args, target);
}
LaunchError LaunchRotary(const RotaryArgs<Bf16>& args, LaunchTarget target) {
  return Launch<Rotary>(GridOf(args), args, target);
}
LaunchError LaunchAppendKv(const AppendKvArgs<Bf16>& args, LaunchTarget target) {
  return Launch<AppendKv>(GridOf(args), args, target);
}
LaunchError LaunchLightning(const LightningArgs<Bf16>& args, LightningRows rows,
                            LaunchTarget target) {
  return rows == LightningRows::kDecode ? Launch<LightningDecode>(GridOf(args, rows), args, target)
                                        : Launch<LightningPrompt>(GridOf(args, rows), args, target);
}

}  // namespace m1::cuda
