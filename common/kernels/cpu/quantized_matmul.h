// The product of integers that QuantizedLinear and QuantizedGatedUp share.
#pragma once

#include "common/kernels/cpu/quantized_args.h"
#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

// sums[(r - rows.begin) * stride + (c - columns.begin)] = x[r] . w[c] in the quantised form of
// backend.h, for all r in rows and c in columns.
void MultiplyQuantized(const QuantizedRows& x, const QuantizedMatrix& w, int64_t k, Range rows,
                       Range columns, float* sums, int64_t stride);

}  // namespace m1::M1_SIMD_NAMESPACE
