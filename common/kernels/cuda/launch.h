// The kernels as plain functions: device pointers in, a launch out, on a stream or into a list. The
// one header that code outside of .cu files needs; no CUDA header. Nothing waits.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/dot_kernel.h"
#include "common/kernels/cuda/launch_list.h"
#include "common/kernels/cuda/lightning_args.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_args.h"
#include "common/kernels/cuda/quant_args.h"
#include "common/kernels/cuda/row_args.h"
#include "common/kernels/cuda/softmax_args.h"
#include "common/kernels/cuda/vocab_args.h"

namespace m1::cuda {

using Stream = CUstream_st*;

// A cudaError_t; 0 is success.
using LaunchError = int;

enum class OutType : int32_t { kF32, kBf16 };

// The product of product_kernel.h. Linear: out = epilogue(x w^T) for each group. Gated:
// out = silu(x w^T) * (x up^T). Split: as linear with x given as three bf16 terms of fp32 rows
// (LaunchSplit), for products in fp32 accuracy.
[[nodiscard]] LaunchError LaunchLinear(const ProductArgs& args, OutType out, LaunchTarget target);
[[nodiscard]] LaunchError LaunchGatedUp(const ProductArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchSplitLinear(const ProductArgs& args, LaunchTarget target);

// dot_kernel.h
[[nodiscard]] LaunchError LaunchDot(const DotArgs& args, LaunchTarget target);

// element_kernels.h and row_kernels.h. Activations are bf16: fp32 ones are not offered on a GPU.
// word_bytes 1, 4 or 16, to which both tensors are aligned.
[[nodiscard]] LaunchError LaunchCopyRows(const CopyRowsArgs& args, int word_bytes,
                                         LaunchTarget target);
[[nodiscard]] LaunchError LaunchEmbed(const EmbedArgs<float>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchEmbed(const EmbedArgs<Bf16>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchRmsNorm(const RmsNormArgs<float>& args, int rows,
                                        LaunchTarget target);
[[nodiscard]] LaunchError LaunchRmsNorm(const RmsNormArgs<Bf16>& args, int rows,
                                        LaunchTarget target);
[[nodiscard]] LaunchError LaunchRound(const RoundArgs<Bf16>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchSplit(const SplitArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchScaledAdd(const ScaledAddArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchSigmoidMul(const SigmoidMulArgs<Bf16>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchTopKGate(const TopKGateArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchCombine(const CombineArgs<Bf16>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchSharedMix(const SharedMixArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchRotary(const RotaryArgs<Bf16>& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchAppendKv(const AppendKvArgs<Bf16>& args, LaunchTarget target);

// lightning_kernel.h
[[nodiscard]] LaunchError LaunchLightning(const LightningArgs<Bf16>& args, LightningRows rows,
                                          LaunchTarget target);

// quant_rows_kernel.h and quant_kernel.h: rows as integers, then the products of LaunchLinear and
// LaunchGatedUp with int8 or int4 weights. cudaErrorInvalidValue where TakesQuantArgs says no.
[[nodiscard]] LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<float>& args, int rows,
                                             LaunchTarget target);
[[nodiscard]] LaunchError LaunchQuantizeRows(const QuantizeRowsArgs<Bf16>& args, int rows,
                                             LaunchTarget target);
[[nodiscard]] LaunchError LaunchQuantLinear(const QuantProductArgs& args, OutType out,
                                            LaunchTarget target);
[[nodiscard]] LaunchError LaunchQuantGatedUp(const QuantProductArgs& args, LaunchTarget target);

// softmax_kernel.h. TakesSoftmaxFew says which of them a sequence takes; the bits are the same. Few
// uses args.partials, at least SoftmaxScratchBytes for the slots of its sequences.
[[nodiscard]] LaunchError LaunchSoftmaxFew(const SoftmaxArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchSoftmaxMany(const SoftmaxArgs& args, LaunchTarget target);

// vocab_kernels.h
[[nodiscard]] LaunchError LaunchLogSumExp(const LogSumExpArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchDraw(const DrawArgs& args, LaunchTarget target);
[[nodiscard]] LaunchError LaunchScore(const ScoreArgs& args, LaunchTarget target);

}  // namespace m1::cuda
