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
LaunchError Launch(const LaunchGrid& grid, const Args& args, Stream stream) {
  return LaunchKernel(RunRows<Body, Args>, grid, args, stream);
}

}  // namespace

LaunchError LaunchCopyRows(const CopyRowsArgs& args, int word_bytes, Stream stream) {
  if (word_bytes == 16) return Launch<CopyRows<Words4>>(GridOf(args), args, stream);
  return word_bytes == 4 ? Launch<CopyRows<uint32_t>>(GridOf(args), args, stream)
                         : Launch<CopyRows<unsigned char>>(GridOf(args), args, stream);
}
LaunchError LaunchDot(const DotArgs& args, Stream stream) {
  return Launch<Dot>(GridOf(args), args, stream);
}
LaunchError LaunchEmbed(const EmbedArgs<float>& args, Stream stream) {
  return Launch<Embed>(GridOf(args), args, stream);
}
LaunchError LaunchEmbed(const EmbedArgs<Bf16>& args, Stream stream) {
  return Launch<Embed>(GridOf(args), args, stream);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<float>& args, int rows, Stream stream) {
  return Launch<RmsNorm>(RmsNormGrid(rows), args, stream);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<Bf16>& args, int rows, Stream stream) {
  return Launch<RmsNorm>(RmsNormGrid(rows), args, stream);
}
LaunchError LaunchRound(const RoundArgs<Bf16>& args, Stream stream) {
  return Launch<Round>(GridOf(args), args, stream);
}
LaunchError LaunchSplit(const SplitArgs& args, Stream stream) {
  return Launch<Split>(GridOf(args), args, stream);
}
LaunchError LaunchScaledAdd(const ScaledAddArgs& args, Stream stream) {
  return Launch<ScaledAdd>(GridOf(args), args, stream);
}
LaunchError LaunchSigmoidMul(const SigmoidMulArgs<Bf16>& args, Stream stream) {
  return Launch<SigmoidMul>(GridOf(args), args, stream);
}
LaunchError LaunchTopKGate(const TopKGateArgs& args, Stream stream) {
  return Launch<TopKGate>(TopKGateGrid(args.rows), args, stream);
}
LaunchError LaunchCombine(const CombineArgs<Bf16>& args, Stream stream) {
  return Launch<Combine>(GridOf(args), args, stream);
}
LaunchError LaunchSharedMix(const SharedMixArgs& args, Stream stream) {
  return Launch<SharedMix>(GridOf(args), args, stream);
}
LaunchError LaunchRotary(const RotaryArgs<Bf16>& args, Stream stream) {
  return Launch<Rotary>(GridOf(args), args, stream);
}
LaunchError LaunchAppendKv(const AppendKvArgs<Bf16>& args, Stream stream) {
  return Launch<AppendKv>(GridOf(args), args, stream);
}
LaunchError LaunchLightning(const LightningArgs<Bf16>& args, LightningRows rows, Stream stream) {
  return rows == LightningRows::kDecode ? Launch<LightningDecode>(GridOf(args, rows), args, stream)
                                        : Launch<LightningPrompt>(GridOf(args, rows), args, stream);
}

}  // namespace m1::cuda
