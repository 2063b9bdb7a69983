// Kernels that exist for tests and for the check at start.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

void ExactFunctionOf(ExactFunction function, const float* x, float* out, int64_t n);
bool PairStepIsExact();

}  // namespace m1::M1_SIMD_NAMESPACE
