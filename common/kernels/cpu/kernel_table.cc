#include "common/kernels/cpu/kernel_table.h"

#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/self_test.h"

namespace m1::M1_SIMD_NAMESPACE {

const KernelTable kKernels = {
    .column_tile = kTileColumns,
    .embed = Embed,
    .rms_norm = RmsNorm,
    .round = Round,
    .linear = Linear,
    .gated_up = GatedUp,
    .quantize_rows = QuantizeRows,
    .quantized_linear = QuantizedLinear,
    .quantized_gated_up = QuantizedGatedUp,
    .scaled_add = ScaledAdd,
    .sigmoid_mul = SigmoidMul,
    .top_k_gate = TopKGate,
    .combine_experts = CombineExperts,
    .shared_expert_mix = SharedExpertMix,
    .log_sum_exp = LogSumExp,
    .block_maxima = BlockMaxima,
    .draw_weights = DrawWeights,
    .tally_from = TallyFrom,
    .collect = Collect,
    .zero_below = ZeroBelow,
    .count_before = CountBefore,
    .rotary = Rotary,
    .append_kv = AppendKv,
    .softmax_attention = SoftmaxAttention,
    .lightning_attention = LightningAttention,
    .exact_function = ExactFunctionOf,
    .pair_step_is_exact = PairStepIsExact,
    .multiply_loop = MultiplyLoop,
};

}  // namespace m1::M1_SIMD_NAMESPACE
