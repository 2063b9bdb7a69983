#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/matmul.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {

void GatedUp(const GatedUpArgs& args, Range rows, Range columns) {
  const int64_t block_rows = BlockRows(args.x, args.k);
  float gate[kMaxBlockRows * kBlockColumns];
  float up[kMaxBlockRows * kBlockColumns];
  for (Range r{rows.begin, 0}; r.begin < rows.end; r.begin = r.end) {
    r.end = rows.end - r.begin < block_rows ? rows.end : r.begin + block_rows;
    for (Range c{columns.begin, 0}; c.begin < columns.end; c.begin = c.end) {
      c.end = columns.end - c.begin < kBlockColumns ? columns.end : c.begin + kBlockColumns;
      MultiplyBlock(args.x, args.gate, args.k, r, c, gate, kBlockColumns);
      MultiplyBlock(args.x, args.up, args.k, r, c, up, kBlockColumns);
      for (int64_t row = r.begin; row < r.end; ++row) {
        const int64_t from = (row - r.begin) * kBlockColumns;
        WithElements(args.out, row * args.n + c.begin, [&](auto* to) {
          ForSteps({0, c.end - c.begin}, [&](int64_t i, auto step) {
            const F32x16 activated = Silu(LoadStep(gate + from + i, step));
            StoreStep(Mul(activated, LoadStep(up + from + i, step)), to + i, step);
          });
        });
      }
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
