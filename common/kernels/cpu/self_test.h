// Kernels that exist for tests, for the check at start and for benchmarks.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

void ExactFunctionOf(ExactFunction function, const float* x, float* out, int64_t n);
bool PairStepIsExact();
void MultiplyLoop(bool in_pairs, int64_t steps, float* out);

}  // namespace m1::M1_SIMD_NAMESPACE
