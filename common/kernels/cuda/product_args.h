// What the product kernels are given. Pointers are device memory.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_geometry.h"

namespace m1::cuda {

enum class ProductEpilogue : int32_t { kNone, kSilu };

// Rows [row_begin, row_begin + num_rows) of the list of rows meet these weights.
//   linear: out = epilogue(x w^T);  gated: out = silu(x w^T) * (x up^T)
struct ProductGroup {
  const Bf16* w = nullptr;   // [n, k]
  const Bf16* up = nullptr;  // [n, k]; gated only
  void* out = nullptr;       // [.., n] of the launch's output type
  int32_t n = 0;
  int32_t row_begin = 0;
  int32_t num_rows = 0;
  ProductEpilogue epilogue = ProductEpilogue::kNone;

  constexpr bool operator==(const ProductGroup&) const = default;
};

// Several matrices that share x (q, k and v) are groups with the same rows, experts are groups with
// rows of their own.
inline constexpr int kMaxProductGroups = 64;

// Handed over by value: 4 KiB of kernel parameters are the limit. k is a multiple of 8, every
// matrix and x begin at a multiple of 16 bytes.
struct ProductArgs {
  // [.., k]; entry i of the list of rows is row gather[i] of x, or row i without a list.
  const Bf16* x = nullptr;
  const int32_t* gather = nullptr;
  // Its result goes to row scatter[i] of out, or row i.
  const int32_t* scatter = nullptr;
  // Elements from one bf16 term of an fp32 row to the next (kParts of the shape).
  int64_t part_stride = 0;
  int32_t k = 0;
  int32_t num_groups = 0;
  ProductGroup groups[kMaxProductGroups];

  // Groups beyond num_groups are nobody's.
  constexpr bool operator==(const ProductArgs& other) const;
};

static_assert(sizeof(ProductArgs) <= 4096);

template <typename Args>
constexpr bool EqualGroups(const Args& a, const Args& b) {
  if (a.num_groups != b.num_groups) return false;
  for (int g = 0; g < a.num_groups; ++g) {
    if (!(a.groups[g] == b.groups[g])) return false;
  }
  return true;
}

constexpr bool ProductArgs::operator==(const ProductArgs& other) const {
  return x == other.x && gather == other.gather && scatter == other.scatter &&
         part_stride == other.part_stride && k == other.k && EqualGroups(*this, other);
}

// `Args`: ProductArgs, or others with such groups.
template <typename Args>
constexpr int LargestGroupRows(const Args& args) {
  int rows = 0;
  for (int g = 0; g < args.num_groups; ++g) {
    rows = args.groups[g].num_rows > rows ? args.groups[g].num_rows : rows;
  }
  return rows;
}

// Blocks: (row tiles of all groups, feature tiles of the widest group). None along x: nothing to
// do.
template <typename Shape, typename Args>
constexpr LaunchGrid ProductGrid(const Args& args) {
  int row_tiles = 0;
  int n = 0;
  for (int g = 0; g < args.num_groups; ++g) {
    row_tiles += CeilDiv(args.groups[g].num_rows, Shape::kTokens);
    n = args.groups[g].n > n ? args.groups[g].n : n;
  }
  return {{row_tiles, CeilDiv(n, Shape::kFeatures), 1}, Shape::kThreads, Shape::kSharedBytes};
}

// Calls visit.operator()<Shape>() with the one of the three shapes that suits the rows.
template <typename One, typename Few, typename Many, typename Args, typename Visit>
constexpr auto ForShape(const Args& args, Visit visit) {
  switch (ClassifyRows(LargestGroupRows(args))) {
    case RowCount::kOne:
      return visit.template operator()<One>();
    case RowCount::kFew:
      return visit.template operator()<Few>();
    case RowCount::kMany:
      break;
  }
  return visit.template operator()<Many>();
}

}  // namespace m1::cuda
