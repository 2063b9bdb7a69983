#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/matmul.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// One row of sums to out, through silu and rounding.
void Finish(const float* sums, int64_t n, bool silu, const ActOut& out, int64_t offset) {
  WithElements(out, offset, [&](auto* to) {
    ForSteps({0, n}, [&](int64_t i, auto step) {
      const F32x16 sum = LoadStep(sums + i, step);
      StoreStep(silu ? Silu(sum) : sum, to + i, step);
    });
  });
}

}  // namespace

void Linear(const LinearArgs& args, Range rows, Range columns) {
  const int64_t block_rows = BlockRows(args.x, args.k);
  float sums[kMaxBlockRows * kBlockColumns];
  for (Range r{rows.begin, 0}; r.begin < rows.end; r.begin = r.end) {
    r.end = rows.end - r.begin < block_rows ? rows.end : r.begin + block_rows;
    if (!args.out.is_bf16 && !args.silu) {
      float* out = static_cast<float*>(args.out.data) + r.begin * args.n + columns.begin;
      MultiplyBlock(args.x, args.w, args.k, r, columns, out, args.n);
      continue;
    }
    for (Range c{columns.begin, 0}; c.begin < columns.end; c.begin = c.end) {
      c.end = columns.end - c.begin < kBlockColumns ? columns.end : c.begin + kBlockColumns;
      MultiplyBlock(args.x, args.w, args.k, r, c, sums, kBlockColumns);
      for (int64_t row = r.begin; row < r.end; ++row) {
        Finish(sums + (row - r.begin) * kBlockColumns, c.end - c.begin, args.silu, args.out,
               row * args.n + c.begin);
      }
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
