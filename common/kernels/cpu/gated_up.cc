#include "common/kernels/cpu/gated_row.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/matmul.h"

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
        StoreGated(gate + from, up + from, c.end - c.begin, args.out, row * args.n + c.begin);
      }
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
