// The kernels of one instruction set, in its own namespace. Contracts: common/kernels/backend.h.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/quantized_args.h"
#include "common/kernels/cpu/simd.h"
#include "common/kernels/cpu/vocab_args.h"

namespace m1::M1_SIMD_NAMESPACE {

void Embed(const EmbedArgs& args, Range rows);
void RmsNorm(const RmsNormArgs& args, Range rows);
void Round(const RoundArgs& args, Range elements);
void Linear(const LinearArgs& args, Range rows, Range columns);
void GatedUp(const GatedUpArgs& args, Range rows, Range columns);
void QuantizeRows(const QuantizeRowsArgs& args, Range rows);
void QuantizedLinear(const QuantizedLinearArgs& args, Range rows, Range columns);
void QuantizedGatedUp(const QuantizedGatedUpArgs& args, Range rows, Range columns);
void ScaledAdd(const ScaledAddArgs& args, Range elements);
void SigmoidMul(const SigmoidMulArgs& args, Range elements);
void TopKGate(const TopKGateArgs& args, Range rows);
void CombineExperts(const CombineExpertsArgs& args, Range rows);
void SharedExpertMix(const SharedExpertMixArgs& args, Range rows);
void LogSumExp(const LogSumExpArgs& args, Range rows);
void BlockMaxima(const float* x, int64_t n, float* maxima);
double DrawWeights(const DrawWeightsArgs& args);
Tally TallyFrom(const float* weights, int64_t n, float floor);
int64_t Collect(const float* x, int64_t n, float low, float high, int32_t* indices);
void ZeroBelow(float* weights, int64_t n, float floor);
int64_t CountBefore(const float* x, int64_t n, int64_t index);
void Rotary(const RotaryArgs& args, Range rows);
void AppendKv(const AppendKvArgs& args, Range parts);
void SoftmaxAttention(const SoftmaxAttentionArgs& args, Range parts);
void LightningAttention(const LightningAttentionArgs& args, Range parts);

}  // namespace m1::M1_SIMD_NAMESPACE
