#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/gated_row.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/quantized_matmul.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// Of x, which stay in the second-level cache while the columns go by, and of the sums on the stack.
constexpr int64_t kBlockRows = 64;
constexpr int64_t kBlockColumns = 96;

template <typename F>
void ForBlocks(Range rows, Range columns, F f) {
  for (Range r{rows.begin, 0}; r.begin < rows.end; r.begin = r.end) {
    r.end = rows.end - r.begin < kBlockRows ? rows.end : r.begin + kBlockRows;
    for (Range c{columns.begin, 0}; c.begin < columns.end; c.begin = c.end) {
      c.end = columns.end - c.begin < kBlockColumns ? columns.end : c.begin + kBlockColumns;
      f(r, c);
    }
  }
}

}  // namespace

void QuantizedLinear(const QuantizedLinearArgs& args, Range rows, Range columns) {
  float sums[kBlockRows * kBlockColumns];
  ForBlocks(rows, columns, [&](Range r, Range c) {
    MultiplyQuantized(args.x, args.w, args.k, r, c, sums, kBlockColumns);
    for (int64_t row = r.begin; row < r.end; ++row) {
      const float* from = sums + (row - r.begin) * kBlockColumns;
      WithElements(args.out, row * args.n + c.begin, [&](auto* to) {
        ForSteps({0, c.end - c.begin}, [&](int64_t i, auto step) {
          const F32x16 sum = LoadStep(from + i, step);
          StoreStep(args.silu ? Silu(sum) : sum, to + i, step);
        });
      });
    }
  });
}

void QuantizedGatedUp(const QuantizedGatedUpArgs& args, Range rows, Range columns) {
  float gate[kBlockRows * kBlockColumns];
  float up[kBlockRows * kBlockColumns];
  ForBlocks(rows, columns, [&](Range r, Range c) {
    MultiplyQuantized(args.x, args.gate, args.k, r, c, gate, kBlockColumns);
    MultiplyQuantized(args.x, args.up, args.k, r, c, up, kBlockColumns);
    for (int64_t row = r.begin; row < r.end; ++row) {
      const int64_t from = (row - r.begin) * kBlockColumns;
      StoreGated(gate + from, up + from, c.end - c.begin, args.out, row * args.n + c.begin);
    }
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
