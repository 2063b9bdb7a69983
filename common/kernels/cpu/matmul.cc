// Register tiles of kTileRows x kTileColumns sums of 16 lanes. The K of a column tile is cut into
// slices that fit the first-level cache and serve every row of the block in turn; the lanes wait in
// `carry` between slices, so that each sum sees one order whatever the blocking. Meanwhile the
// next tile of w is fetched into the second-level cache.
#include "common/kernels/cpu/matmul.h"

#include "common/kernels/cpu/act.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// Where the trees take as long as the products, columns go by fours: see ReduceTrees4.
constexpr int kShortColumns = kTileColumns < 4 ? kTileColumns : 4;
constexpr int64_t kShortK = 256;
constexpr int64_t kSliceBytes = 4096;        // of one row: the 10 rows of a tile take 40 KiB of 48
constexpr int64_t kBlockBytes = 800 * 1024;  // of x, in a second-level cache of 1 MiB or more

// The k axis of one call, and the part of it that is multiplied now.
struct Slice {
  int64_t begin;
  int64_t end;
  bool first;
  bool last;
};

// The next column tile, on its way into the second-level cache: some lines in each step, so that
// all have come by the end of this tile.
struct Fetch {
  const char* next;
  const char* end;
  int64_t lines_per_step;
};

inline void FetchStep(Fetch& fetch) {
  for (int64_t i = 0; i < fetch.lines_per_step && fetch.next < fetch.end; ++i) {
    __builtin_prefetch(fetch.next, 0, 2);
    fetch.next += 64;
  }
}

template <int kRows, int kColumns, typename X, typename W>
inline void AddSlice(const X* const (&x)[kRows], const W* const (&w)[kColumns], const Slice& slice,
                     Fetch& fetch, F32x16 (&sums)[kRows][kColumns]) {
  using Op = typename Operand<X, W>::Type;
  int64_t k = slice.begin;
  for (; k + 32 <= slice.end; k += 32) {
    Op b[kColumns];
    M1_UNROLL
    for (int c = 0; c < kColumns; ++c) b[c] = Load32<Op, W>::Whole(w[c] + k);
    FetchStep(fetch);
    M1_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Op a = Load32<Op, X>::Whole(x[r] + k);
      M1_UNROLL
      for (int c = 0; c < kColumns; ++c) sums[r][c] = Dot(sums[r][c], a, b[c]);
    }
  }
  if (k < slice.end) {
    const int64_t n = slice.end - k;
    M1_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Op a = Load32<Op, X>::Partial(x[r] + k, n);
      M1_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        sums[r][c] = Dot(sums[r][c], a, Load32<Op, W>::Partial(w[c] + k, n));
      }
    }
  }
}

// The trees of one row's sums; the first `n` are stored.
template <int kColumns>
inline void StoreSums(const F32x16 (&sums)[kColumns], float* to, int64_t n) {
  float row[kColumns];
  float* trees = n == kColumns ? to : row;
  constexpr int kInFours = kColumns / 4 * 4;
  M1_UNROLL
  for (int c = 0; c < kInFours; c += 4) {
    ReduceTrees4(sums[c], sums[c + 1], sums[c + 2], sums[c + 3], trees + c);
  }
  M1_UNROLL
  for (int c = kInFours; c < kColumns; ++c) trees[c] = ReduceTree(sums[c]);
  if (n == kColumns) return;
  for (int64_t c = 0; c < n; ++c) to[c] = row[c];
}

// Everything about a column tile.
template <int kColumns, typename X, typename W>
struct ColumnTile {
  const X* x;  // row 0 of the block
  const W* w[kColumns];
  int64_t k;
  int64_t num_columns;  // valid ones; the other pointers repeat the last
  bool is_last;         // no tile follows, whose weights would follow these
  float* sums;          // of row 0 and the tile's first column
  int64_t stride;
};

template <int kRows, int kColumns, typename X, typename W>
inline void MultiplyTile(const ColumnTile<kColumns, X, W>& tile, int64_t row, const Slice& slice,
                         Fetch& fetch, F32x16 (*carry)[kColumns]) {
  const X* x[kRows];
  F32x16 sums[kRows][kColumns];
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    x[r] = tile.x + (row + r) * tile.k;
    M1_UNROLL
    for (int c = 0; c < kColumns; ++c) sums[r][c] = slice.first ? Zero() : carry[row + r][c];
  }
  AddSlice<kRows>(x, tile.w, slice, fetch, sums);
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if (slice.last) {
      StoreSums(sums[r], tile.sums + (row + r) * tile.stride, tile.num_columns);
    } else {
      M1_UNROLL
      for (int c = 0; c < kColumns; ++c) carry[row + r][c] = sums[r][c];
    }
  }
}

template <int kColumns, typename X, typename W>
void MultiplyColumnTile(const ColumnTile<kColumns, X, W>& tile, int64_t num_rows) {
  F32x16 carry[kMaxBlockRows][kColumns];
  // One tile of rows uses w once: no reason to come back.
  const int64_t slice_size = num_rows <= kTileRows ? tile.k : kSliceBytes / int64_t{sizeof(W)};
  const W* next = tile.is_last ? nullptr : tile.w[0] + kColumns * tile.k;
  const int64_t next_elements = tile.is_last ? 0 : kColumns * tile.k;
  const int64_t row_tiles = (num_rows + kTileRows - 1) / kTileRows;
  Fetch fetch{reinterpret_cast<const char*>(next),
              reinterpret_cast<const char*>(next + next_elements),
              (kColumns * int64_t{sizeof(W)} / 2 + row_tiles - 1) / row_tiles};
  int64_t begin = 0;
  do {
    const int64_t end = tile.k - begin <= slice_size ? tile.k : begin + slice_size;
    const Slice slice{begin, end, begin == 0, end == tile.k};
    int64_t row = 0;
    for (; row + kTileRows <= num_rows; row += kTileRows) {
      MultiplyTile<kTileRows>(tile, row, slice, fetch, carry);
    }
    for (; row < num_rows; ++row) MultiplyTile<1>(tile, row, slice, fetch, carry);
    begin = end;
  } while (begin < tile.k);
}

template <int kColumns, typename X, typename W>
void Multiply(const X* x, const W* w, int64_t k, Range rows, Range columns, float* sums,
              int64_t stride) {
  ColumnTile<kColumns, X, W> tile{x + rows.begin * k, {}, k, 0, false, nullptr, stride};
  for (int64_t column = columns.begin; column < columns.end; column += kColumns) {
    const int64_t left = columns.end - column;
    tile.num_columns = left < kColumns ? left : kColumns;
    for (int64_t c = 0; c < kColumns; ++c) {
      tile.w[c] = w + (column + (c < tile.num_columns ? c : tile.num_columns - 1)) * k;
    }
    tile.is_last = left <= kColumns;
    tile.sums = sums + (column - columns.begin);
    MultiplyColumnTile(tile, rows.end - rows.begin);
  }
}

}  // namespace

int64_t BlockRows(const ActIn& x, int64_t k) {
  const int64_t row_bytes = (k > 0 ? k : 1) * (x.is_bf16 ? 2 : 4);
  const int64_t rows = kBlockBytes / row_bytes / kTileRows * kTileRows;
  return rows < kTileRows ? kTileRows : rows > kMaxBlockRows ? kMaxBlockRows : rows;
}

void MultiplyBlock(const ActIn& x, const ActIn& w, int64_t k, Range rows, Range columns,
                   float* sums, int64_t stride) {
  WithElements(x, 0, [&](auto* x_data) {
    WithElements(w, 0, [&](auto* w_data) {
      if (k <= kShortK) {
        Multiply<kShortColumns>(x_data, w_data, k, rows, columns, sums, stride);
      } else {
        Multiply<kTileColumns>(x_data, w_data, k, rows, columns, sums, stride);
      }
    });
  });
}

}  // namespace m1::M1_SIMD_NAMESPACE
