// Kernel bodies as types, so that one launch of the GPU, and one of the simulator, serves them all.
#pragma once

#include "common/kernels/cuda/element_kernels.h"
#include "common/kernels/cuda/lightning_kernel.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/row_kernels.h"

namespace m1::cuda {

template <typename Word>
struct CopyRows {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const CopyRowsArgs& args) {
    CopyRowsKernel<Word>(thread, args);
  }
};
struct Embed {
  template <typename Thread, typename Weight>
  M1_DEVICE static void Run(Thread& thread, const EmbedArgs<Weight>& args) {
    EmbedKernel<Weight>(thread, args);
  }
};
struct RmsNorm {
  template <typename Thread, typename Weight>
  M1_DEVICE static void Run(Thread& thread, const RmsNormArgs<Weight>& args) {
    RmsNormKernel<Weight>(thread, args);
  }
};
struct Round {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const RoundArgs<Act>& args) {
    RoundKernel<Act>(thread, args);
  }
};
struct Split {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const SplitArgs& args) {
    SplitKernel(thread, args);
  }
};
struct ScaledAdd {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const ScaledAddArgs& args) {
    ScaledAddKernel(thread, args);
  }
};
struct SigmoidMul {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const SigmoidMulArgs<Act>& args) {
    SigmoidMulKernel<Act>(thread, args);
  }
};
struct TopKGate {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const TopKGateArgs& args) {
    TopKGateKernel(thread, args);
  }
};
struct Combine {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const CombineArgs<Act>& args) {
    CombineKernel<Act>(thread, args);
  }
};
struct SharedMix {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const SharedMixArgs& args) {
    SharedMixKernel(thread, args);
  }
};
struct Rotary {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const RotaryArgs<Act>& args) {
    RotaryKernel<Act>(thread, args);
  }
};
struct AppendKv {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const AppendKvArgs<Act>& args) {
    AppendKvKernel<Act>(thread, args);
  }
};
template <int kRows>
struct LightningOf {
  template <typename Thread, typename Act>
  M1_DEVICE static void Run(Thread& thread, const LightningArgs<Act>& args) {
    LightningKernel<Act, kRows>(thread, args);
  }
};
using LightningDecode = LightningOf<1>;
using LightningPrompt = LightningOf<kPromptRows>;

}  // namespace m1::cuda
