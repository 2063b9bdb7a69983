#include "common/kernels/cuda/cuda_thread.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/vocab_kernels.h"

namespace m1::cuda {
namespace {

template <typename Body>
__global__ void __launch_bounds__(kVocabThreads, 1)
    RunVocab(const __grid_constant__ typename Body::Args args) {
  extern __shared__ __align__(128) unsigned char shared[];
  CudaThread thread(shared);
  Body::Run(thread, args);
}

template <typename Body>
LaunchError Launch(const LaunchGrid& grid, const typename Body::Args& args, LaunchTarget target) {
  if (args.vocab < 1 || args.vocab > kMaxVocab) return cudaErrorInvalidValue;
  return LaunchKernel(RunVocab<Body>, grid, args, target);
}

}  // namespace

LaunchError LaunchLogSumExp(const LogSumExpArgs& args, LaunchTarget target) {
  return Launch<LogSumExp>(LogSumExpGrid(args.rows), args, target);
}
LaunchError LaunchDraw(const DrawArgs& args, LaunchTarget target) {
  return Launch<Draw>(VocabRowGrid(args.num_draws), args, target);
}
LaunchError LaunchScore(const ScoreArgs& args, LaunchTarget target) {
  if (args.max_candidates > kMaxScoreCandidates) return cudaErrorInvalidValue;
  return Launch<Score>(VocabRowGrid(args.num_requests), args, target);
}

}  // namespace m1::cuda
