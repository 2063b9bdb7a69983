// launch.h and measure.h on the simulated GPU.
#include <chrono>
#include <cstring>

#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/measure.h"
#include "common/kernels/cuda/product_kernel.h"
#include "common/kernels/cuda/quant_kernel.h"
#include "common/kernels/cuda/quant_rows_kernel.h"
#include "common/kernels/cuda/row_bodies.h"
#include "common/kernels/cuda/softmax_kernel.h"
#include "common/kernels/cuda/vocab_kernels.h"
#include "tests/support/simulated_device.h"

namespace m1::cuda {
namespace {

template <typename Args, typename Body>
LaunchError Launch(const LaunchGrid& grid, const Args& args, Body /*body*/, LaunchTarget target) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0) return 0;
  if (!IsLaunchable(grid)) return kInvalidConfiguration;
  constexpr SimulatedKernel kKernel = [](SimulatedThread& thread, const void* a) {
    Body()(thread, *static_cast<const Args*>(a));
  };
  if (target.list() != nullptr) {
    target.list()->Add(reinterpret_cast<const void*>(kKernel), grid, args);
    return 0;
  }
  return Gpu().Enqueue([grid, args] { Gpu().Run(grid, kKernel, &args); });
}

template <typename Body, typename Args>
LaunchError LaunchBody(const LaunchGrid& grid, const Args& args, LaunchTarget target) {
  return Launch(
      grid, args, [](SimulatedThread& thread, const Args& a) { Body::Run(thread, a); }, target);
}

template <typename One, typename Few, typename Many, typename Out>
LaunchError LaunchProduct(const ProductArgs& args, LaunchTarget target) {
  return ForShape<One, Few, Many>(args, [&]<typename Shape>() {
    return Launch(
        ProductGrid<Shape>(args), args,
        [](SimulatedThread& thread, const ProductArgs& a) { ProductKernel<Shape, Out>(thread, a); },
        target);
  });
}

template <typename Shape, typename Out>
LaunchError LaunchQuantProduct(const QuantProductArgs& args, LaunchTarget target) {
  return Launch(
      ProductGrid<Shape>(args), args,
      [](SimulatedThread& thread, const QuantProductArgs& a) {
        QuantProductKernel<Shape, Out>(thread, a);
      },
      target);
}

template <typename Act>
LaunchError LaunchQuantize(const QuantizeRowsArgs<Act>& args, int rows, LaunchTarget target) {
  if (!TakesQuantRows(args.order, args.k)) return kInvalidValue;
  return Launch(
      QuantizeRowsGrid(rows), args,
      [](SimulatedThread& thread, const QuantizeRowsArgs<Act>& a) {
        QuantizeRowsKernel<Act>(thread, a);
      },
      target);
}

}  // namespace

// launch.h
LaunchError LaunchLinear(const ProductArgs& args, OutType out, LaunchTarget target) {
  return out == OutType::kF32 ? LaunchProduct<LinearOne, LinearFew, LinearMany, float>(args, target)
                              : LaunchProduct<LinearOne, LinearFew, LinearMany, Bf16>(args, target);
}
LaunchError LaunchGatedUp(const ProductArgs& args, LaunchTarget target) {
  return LaunchProduct<GatedOne, GatedFew, GatedMany, Bf16>(args, target);
}
LaunchError LaunchSplitLinear(const ProductArgs& args, LaunchTarget target) {
  return LaunchProduct<SplitOne, SplitFew, SplitMany, float>(args, target);
}
LaunchError LaunchCopyRows(const CopyRowsArgs& args, int word_bytes, LaunchTarget target) {
  if (word_bytes == 16) return LaunchBody<CopyRows<Words4>>(GridOf(args), args, target);
  return word_bytes == 4 ? LaunchBody<CopyRows<uint32_t>>(GridOf(args), args, target)
                         : LaunchBody<CopyRows<unsigned char>>(GridOf(args), args, target);
}
LaunchError LaunchDot(const DotArgs& args, LaunchTarget target) {
  return LaunchBody<Dot>(GridOf(args), args, target);
}
LaunchError LaunchEmbed(const EmbedArgs<float>& args, LaunchTarget target) {
  return LaunchBody<Embed>(GridOf(args), args, target);
}
LaunchError LaunchEmbed(const EmbedArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<Embed>(GridOf(args), args, target);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<float>& args, int rows, LaunchTarget target) {
  return LaunchBody<RmsNorm>(RmsNormGrid(rows), args, target);
}
LaunchError LaunchRmsNorm(const RmsNormArgs<Bf16>& args, int rows, LaunchTarget target) {
  return LaunchBody<RmsNorm>(RmsNormGrid(rows), args, target);
}
LaunchError LaunchRound(const RoundArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<Round>(GridOf(args), args, target);
}
LaunchError LaunchSplit(const SplitArgs& args, LaunchTarget target) {
  return LaunchBody<Split>(GridOf(args), args, target);
}
LaunchError LaunchScaledAdd(const ScaledAddArgs& args, LaunchTarget target) {
  return LaunchBody<ScaledAdd>(GridOf(args), args, target);
}
LaunchError LaunchSigmoidMul(const SigmoidMulArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<SigmoidMul>(GridOf(args), args, target);
}
LaunchError LaunchTopKGate(const TopKGateArgs& args, LaunchTarget target) {
  return LaunchBody<TopKGate>(TopKGateGrid(args.rows), args, target);
}
LaunchError LaunchCombine(const CombineArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<Combine>(GridOf(args), args, target);
}
LaunchError LaunchSharedMix(const SharedMixArgs& args, LaunchTarget target) {
  return LaunchBody<SharedMix>(GridOf(args), args, target);
}
LaunchError LaunchRotary(const RotaryArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<Rotary>(GridOf(args), args, target);
}
LaunchError LaunchAppendKv(const AppendKvArgs<Bf16>& args, LaunchTarget target) {
  return LaunchBody<AppendKv>(GridOf(args), args, target);
}
LaunchError LaunchSoftmaxFew(const SoftmaxArgs& args, LaunchTarget target) {
  const LaunchError error = ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxFew<head_dim>;
    return Launch(
        SoftmaxSegmentsGrid<Shape>(args), args,
        [](SimulatedThread& thread, const SoftmaxArgs& a) {
          SoftmaxSegmentsKernel<Shape>(thread, a);
        },
        target);
  });
  if (error != 0) return error;
  return Launch(
      SoftmaxMergeGrid(args), args,
      [](SimulatedThread& thread, const SoftmaxArgs& a) { SoftmaxMergeKernel(thread, a); }, target);
}
LaunchError LaunchSoftmaxMany(const SoftmaxArgs& args, LaunchTarget target) {
  return ForSoftmaxHeadDim(args.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxMany<head_dim>;
    return Launch(
        SoftmaxPromptGrid<Shape>(args), args,
        [](SimulatedThread& thread, const SoftmaxArgs& a) {
          SoftmaxPromptKernel<Shape>(thread, a);
        },
        target);
  });
}
LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<float>& args, int rows, LaunchTarget target) {
  return LaunchQuantize(args, rows, target);
}
LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<Bf16>& args, int rows, LaunchTarget target) {
  return LaunchQuantize(args, rows, target);
}
LaunchError LaunchQuantLinear(const QuantProductArgs& args, OutType out, LaunchTarget target) {
  if (!TakesQuantArgs(args)) return kInvalidValue;
  return ForQuantLinear(args, [&]<typename Shape>() {
    return out == OutType::kF32 ? LaunchQuantProduct<Shape, float>(args, target)
                                : LaunchQuantProduct<Shape, Bf16>(args, target);
  });
}
LaunchError LaunchQuantGatedUp(const QuantProductArgs& args, LaunchTarget target) {
  if (!TakesQuantArgs(args)) return kInvalidValue;
  return ForQuantGated(
      args, [&]<typename Shape>() { return LaunchQuantProduct<Shape, Bf16>(args, target); });
}
LaunchError LaunchLogSumExp(const LogSumExpArgs& args, LaunchTarget target) {
  return LaunchBody<LogSumExp>(LogSumExpGrid(args.rows), args, target);
}
LaunchError LaunchDraw(const DrawArgs& args, LaunchTarget target) {
  return LaunchBody<Draw>(VocabRowGrid(args.num_draws), args, target);
}
LaunchError LaunchScore(const ScoreArgs& args, LaunchTarget target) {
  return LaunchBody<Score>(VocabRowGrid(args.num_requests), args, target);
}
LaunchError LaunchLightning(const LightningArgs<Bf16>& args, LightningRows rows,
                            LaunchTarget target) {
  return rows == LightningRows::kDecode
             ? LaunchBody<LightningDecode>(GridOf(args, rows), args, target)
             : LaunchBody<LightningPrompt>(GridOf(args, rows), args, target);
}

// measure.h: times are those of the simulator.
LaunchError DescribeGpu(GpuDescription* description) {
  std::strcpy(description->name, "simulated GPU");
  description->capability = 0;
  description->multiprocessors = 1;
  return 0;
}
struct Stopwatch {
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point end;
};
LaunchError OpenStopwatch(Stopwatch** stopwatch) {
  *stopwatch = new Stopwatch;
  return 0;
}
void CloseStopwatch(Stopwatch* stopwatch) { delete stopwatch; }
LaunchError StartStopwatch(Stopwatch* stopwatch, Stream) {
  return Gpu().Enqueue([=] { stopwatch->begin = std::chrono::steady_clock::now(); });
}
LaunchError StopStopwatch(Stopwatch* stopwatch, Stream) {
  return Gpu().Enqueue([=] { stopwatch->end = std::chrono::steady_clock::now(); });
}
LaunchError ReadStopwatch(const Stopwatch& stopwatch, double* seconds) {
  const LaunchError error = Gpu().Drain();
  *seconds = std::chrono::duration<double>(stopwatch.end - stopwatch.begin).count();
  return error;
}
LaunchError CopyOnDevice(void* to, const void* from, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memcpy(to, from, bytes); });
}
LaunchError LaunchPeak(PeakKind kind, const PeakArgs& args, Stream stream) {
  switch (kind) {
    case PeakKind::kBf16:
      return LaunchBody<Peak<PeakKind::kBf16>>(MeasureGrid(args), args, stream);
    case PeakKind::kInt8:
      return LaunchBody<Peak<PeakKind::kInt8>>(MeasureGrid(args), args, stream);
    case PeakKind::kFloat:
      return LaunchBody<Peak<PeakKind::kFloat>>(MeasureGrid(args), args, stream);
  }
  return kInvalidValue;
}
LaunchError LaunchReadAll(const ReadArgs& args, Stream stream) {
  return LaunchBody<ReadAll>(MeasureGrid(args), args, stream);
}

}  // namespace m1::cuda
