// The kernels of one instruction set as pointers: what cpu_backend.cc calls. No standard library
// here, see kernel_args.h.
#pragma once

#include <stdint.h>

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/quantized_args.h"
#include "common/kernels/cpu/vocab_args.h"

namespace m1 {

// Every kernel computes a part of its output and expects FTZ and DAZ. Parts may run at once.
struct KernelTable {
  // Threads split the columns of a product at multiples of this.
  int64_t column_tile;

  void (*embed)(const EmbedArgs& args, Range rows);
  void (*rms_norm)(const RmsNormArgs& args, Range rows);
  void (*round)(const RoundArgs& args, Range elements);
  void (*linear)(const LinearArgs& args, Range rows, Range columns);
  void (*gated_up)(const GatedUpArgs& args, Range rows, Range columns);
  void (*quantize_rows)(const QuantizeRowsArgs& args, Range rows);
  void (*quantized_linear)(const QuantizedLinearArgs& args, Range rows, Range columns);
  void (*quantized_gated_up)(const QuantizedGatedUpArgs& args, Range rows, Range columns);
  void (*scaled_add)(const ScaledAddArgs& args, Range elements);
  void (*sigmoid_mul)(const SigmoidMulArgs& args, Range elements);
  void (*top_k_gate)(const TopKGateArgs& args, Range rows);
  void (*combine_experts)(const CombineExpertsArgs& args, Range rows);
  void (*shared_expert_mix)(const SharedExpertMixArgs& args, Range rows);
  void (*log_sum_exp)(const LogSumExpArgs& args, Range rows);

  // Passes over a row of the vocabulary, what row_sampler.h draws with. No NaN.
  // maxima[b] is the largest of x[b * kMaximaBlock .. ) below n and the next block.
  void (*block_maxima)(const float* x, int64_t n, float* maxima);
  // Fills args.weights as sampling.h says and returns their sum.
  double (*draw_weights)(const DrawWeightsArgs& args);
  // Of the weights at or above `floor` > 0.
  Tally (*tally_from)(const float* weights, int64_t n, float floor);
  // Writes the indices i with low <= x[i] < high, ascending, and returns how many.
  int64_t (*collect)(const float* x, int64_t n, float low, float high, int32_t* indices);
  // What is below `floor` becomes 0.
  void (*zero_below)(float* weights, int64_t n, float floor);
  // Elements larger than x[index], and equal ones before it.
  int64_t (*count_before)(const float* x, int64_t n, int64_t index);

  void (*rotary)(const RotaryArgs& args, Range rows);
  void (*append_kv)(const AppendKvArgs& args, Range parts);
  void (*softmax_attention)(const SoftmaxAttentionArgs& args, Range parts);
  void (*lightning_attention)(const LightningAttentionArgs& args, Range parts);

  // out[i] = f(x[i]) by the vector forms of exact_math.h.
  void (*exact_function)(ExactFunction function, const float* x, float* out, int64_t n);
  // Whether the pair step equals two fused multiply-adds on random lanes, infinities and
  // subnormals among them.
  bool (*pair_step_is_exact)();
  // The fastest multiplications there are: each step adds 1 * 1 to kLoopSums * 16 sums, twice if
  // `in_pairs`. Writes 16 floats.
  void (*multiply_loop)(bool in_pairs, int64_t steps, float* out);
};

// One per compiled target, defined by kernel_table.cc.
namespace cpu_portable {
extern const KernelTable kKernels;
}
namespace cpu_avx2 {
extern const KernelTable kKernels;
}
namespace cpu_avx512 {
extern const KernelTable kKernels;
}
namespace cpu_avx512vnni {
extern const KernelTable kKernels;
}
namespace cpu_avx512bf16 {
extern const KernelTable kKernels;
}

}  // namespace m1
