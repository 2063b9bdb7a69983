// The product that Linear and GatedUp share.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

// Rows and columns that a caller passes at once are at most these.
inline constexpr int64_t kMaxBlockRows = 64;
inline constexpr int64_t kBlockColumns = 96;

// Rows of x, k elements each, that stay in the second-level cache while all of w goes by.
int64_t BlockRows(const ActIn& x, int64_t k);

// sums[(r - rows.begin) * stride + (c - columns.begin)] = x[r] . w[c] in dot form, for all r in
// rows (at most kMaxBlockRows) and c in columns.  x [.., k]; w [.., k].
void MultiplyBlock(const ActIn& x, const ActIn& w, int64_t k, Range rows, Range columns,
                   float* sums, int64_t stride);

}  // namespace m1::M1_SIMD_NAMESPACE
