// Register tiles of kTileRows x kTileColumns sums of 16 lanes. The K of a column tile is cut into
// slices that fit the first-level cache and serve every row of the block in turn; the lanes wait in
// `carry` between slices, so that each sum sees one order whatever the blocking. Meanwhile the part
// of w that comes next is fetched.
#include "common/kernels/cpu/matmul.h"

#include "common/kernels/cpu/act.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// Where the trees take as long as the products, columns go by fours: see ReduceTrees4.
constexpr int kShortColumns = kTileColumns < 4 ? kTileColumns : 4;
constexpr int64_t kShortK = 256;
// Of one row. A slice of w, the next one on its way and the rows of a tile take 32 KiB of 48.
constexpr int64_t kSliceBytes = 2048;
// Rows of w this short are not cut, nor are longer ones if x is small and one row tile.
constexpr int64_t kWholeRowBytes = 4096;
constexpr int64_t kSmallBytes = 24 * 1024;
// Row tiles that pay for packing a slice: the rows of w often lie at multiples of 4 KiB, where they
// push one another out of the cache.
constexpr int64_t kPackTiles = 3;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kBlockBytes = 800 * 1024;  // of x, in a second-level cache of 1 MiB or more

// The k axis of one call, and the part of it that is multiplied now.
struct Slice {
  int64_t begin;
  int64_t end;
  bool first;
  bool last;
};

// What of w comes next, on its way into the first-level cache: `lines` lines in each step of 32
// elements, `apart` bytes from one to the next; a step later they all stand `advance` bytes
// further. Into the second level only it would come too late: measured, that is no faster than no
// fetch. The lines may lie behind the end of w: a fetch does not fault.
struct Fetch {
  const char* next;
  int64_t lines;
  int64_t apart;
  int64_t advance;
};

inline void FetchStep(Fetch& fetch) {
  const char* line = fetch.next;
  for (int64_t i = 0; i < fetch.lines; ++i, line += fetch.apart) __builtin_prefetch(line, 0, 3);
  fetch.next += fetch.advance;
}

// Where a row tile finds a slice of w: in its rows, there and to be packed for the next row tile,
// or packed: of each step the columns side by side.
enum class Panel { kNone, kPack, kPacked };

// What a lone row tile of bf16 pairs fetches ahead, in bytes; see AddColumns.
constexpr int64_t kColumnFetchBytes = 4096;

// As AddSlice, one column after another. A row tile that is alone waits for memory, and a core
// reads it fastest from one end to the other. With fp32 operands a column's chain of sums would
// take longer than that.
template <int kRows, int kColumns, typename X, typename W>
inline void AddColumns(const X* const (&x)[kRows], const W* const (&w)[kColumns],
                       const Slice& slice, F32x16 (&sums)[kRows][kColumns]) {
  using Op = typename Operand<X, W>::Type;
  M1_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    int64_t k = slice.begin;
    for (; k + 32 <= slice.end; k += 32) {
      const char* line = reinterpret_cast<const char*>(w[c] + k) + kColumnFetchBytes;
      for (int64_t i = 0; i < 32 * int64_t{sizeof(W)}; i += kLineBytes) {
        __builtin_prefetch(line + i, 0, 3);
      }
      const Op b = Load32<Op, W>::Whole(w[c] + k);
      M1_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sums[r][c] = Dot(sums[r][c], Load32<Op, X>::Whole(x[r] + k), b);
      }
    }
    if (k == slice.end) continue;
    const int64_t n = slice.end - k;
    const Op b = Load32<Op, W>::Partial(w[c] + k, n);
    M1_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r][c] = Dot(sums[r][c], Load32<Op, X>::Partial(x[r] + k, n), b);
    }
  }
}

template <Panel kPanel, int kRows, int kColumns, typename X, typename W>
inline void AddSlice(const X* const (&x)[kRows], const W* const (&w)[kColumns], const Slice& slice,
                     Fetch fetch, W* panel, F32x16 (&sums)[kRows][kColumns]) {
  using Op = typename Operand<X, W>::Type;
  int64_t k = slice.begin;
  for (; k + 32 <= slice.end; k += 32) {
    Op b[kColumns];
    M1_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      if constexpr (kPanel == Panel::kPacked) {
        b[c] = Load32<Op, W>::Whole(panel + 32 * c);
      } else {
        b[c] = Load32<Op, W>::Whole(w[c] + k);
      }
      if constexpr (kPanel == Panel::kPack) {
        __builtin_memcpy(panel + 32 * c, w[c] + k, 32 * sizeof(W));
      }
    }
    if constexpr (kPanel != Panel::kNone) panel += 32 * kColumns;
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
  int64_t num_rows;
  const W* w[kColumns];
  int64_t k;
  int64_t num_columns;  // valid ones; the other pointers repeat the last
  float* sums;          // of row 0 and the tile's first column
  int64_t stride;
};

// What the row tiles of a column tile leave for later.
template <int kColumns, typename W>
struct Scratch {
  F32x16 carry[kMaxBlockRows][kColumns];
  alignas(kLineBytes) W panel[kSliceBytes / sizeof(W) * kColumns];
};

template <int kRows, Panel kPanel, int kColumns, typename X, typename W>
inline void MultiplyTile(const ColumnTile<kColumns, X, W>& tile, int64_t row, const Slice& slice,
                         const Fetch& fetch, Scratch<kColumns, W>& scratch) {
  F32x16(*const carry)[kColumns] = scratch.carry;
  const X* x[kRows];
  F32x16 sums[kRows][kColumns];
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    x[r] = tile.x + (row + r) * tile.k;
    M1_UNROLL
    for (int c = 0; c < kColumns; ++c) sums[r][c] = slice.first ? Zero() : carry[row + r][c];
  }
  constexpr bool kInPairs = sizeof(X) == sizeof(uint16_t) && sizeof(W) == sizeof(uint16_t);
  if (kInPairs && kPanel == Panel::kNone && tile.num_rows <= kTileRows) {
    AddColumns(x, tile.w, slice, sums);
  } else {
    AddSlice<kPanel>(x, tile.w, slice, fetch, scratch.panel, sums);
  }
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

// What the row tile `index` of `num_tiles` fetches while it multiplies `slice`: its share of the
// slice that the tiles multiply next.
template <int kColumns, typename X, typename W>
inline Fetch NextOf(const ColumnTile<kColumns, X, W>& tile, const Slice& slice, int64_t index,
                    int64_t num_tiles) {
  constexpr int64_t kStepBytes = 32 * int64_t{sizeof(W)};
  const int64_t columns = (kColumns + num_tiles - 1) / num_tiles;
  const int64_t first = index * columns;
  const int64_t left = kColumns - first;
  const int64_t own = left < 0 ? 0 : left < columns ? left : columns;
  const W* next = slice.last ? tile.w[0] + kColumns * tile.k : tile.w[0] + slice.end;
  Fetch fetch{reinterpret_cast<const char*>(next + first * tile.k), own * (kStepBytes / kLineBytes),
              kLineBytes, own * kStepBytes};
  if (slice.first && slice.last) return fetch;  // whole rows: in the order of memory
  fetch.apart = own > 0 ? tile.k * int64_t{sizeof(W)} : 0;
  fetch.lines = own;
  fetch.advance = kStepBytes;
  return fetch;
}

// The last row tile, of `rows` < kTileRows.
template <Panel kPanel, int kColumns, typename X, typename W>
inline void MultiplyRest(const ColumnTile<kColumns, X, W>& tile, int64_t row, int64_t rows,
                         const Slice& slice, const Fetch& fetch, Scratch<kColumns, W>& scratch) {
  switch (rows) {
    case 3:
      if constexpr (kTileRows > 3) MultiplyTile<3, kPanel>(tile, row, slice, fetch, scratch);
      break;
    case 2:
      if constexpr (kTileRows > 2) MultiplyTile<2, kPanel>(tile, row, slice, fetch, scratch);
      break;
    case 1:
      MultiplyTile<1, kPanel>(tile, row, slice, fetch, scratch);
      break;
    default:
      break;
  }
}

// One slice of w under all rows.
template <bool kPack, int kColumns, typename X, typename W>
inline void MultiplySlice(const ColumnTile<kColumns, X, W>& tile, const Slice& slice,
                          Scratch<kColumns, W>& scratch) {
  const int64_t num_rows = tile.num_rows;
  constexpr Panel kLater = kPack ? Panel::kPacked : Panel::kNone;
  const int64_t num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  int64_t i = 0;
  if constexpr (kPack) {
    MultiplyTile<kTileRows, Panel::kPack>(tile, 0, slice, NextOf(tile, slice, 0, num_tiles),
                                          scratch);
    i = 1;
  }
  for (; (i + 1) * kTileRows <= num_rows; ++i) {
    MultiplyTile<kTileRows, kLater>(tile, i * kTileRows, slice, NextOf(tile, slice, i, num_tiles),
                                    scratch);
  }
  MultiplyRest<kLater>(tile, i * kTileRows, num_rows - i * kTileRows, slice,
                       NextOf(tile, slice, i, num_tiles), scratch);
}

template <int kColumns, typename X, typename W>
void MultiplyColumnTile(const ColumnTile<kColumns, X, W>& tile) {
  const int64_t num_rows = tile.num_rows;
  Scratch<kColumns, W> scratch;
  const int64_t row_bytes = tile.k * int64_t{sizeof(W)};
  const bool is_small = num_rows <= kTileRows && num_rows * row_bytes <= kSmallBytes;
  const bool is_whole = row_bytes <= kWholeRowBytes || is_small;
  const bool pack = !is_whole && num_rows >= kPackTiles * kTileRows;
  const int64_t slice_size = is_whole ? tile.k : kSliceBytes / int64_t{sizeof(W)};
  int64_t begin = 0;
  do {
    const int64_t end = tile.k - begin <= slice_size ? tile.k : begin + slice_size;
    const Slice slice{begin, end, begin == 0, end == tile.k};
    if (pack) {
      MultiplySlice<true>(tile, slice, scratch);
    } else {
      MultiplySlice<false>(tile, slice, scratch);
    }
    begin = end;
  } while (begin < tile.k);
}

template <int kColumns, typename X, typename W>
void Multiply(const X* x, const W* w, int64_t k, Range rows, Range columns, float* sums,
              int64_t stride) {
  ColumnTile<kColumns, X, W> tile{
      x + rows.begin * k, rows.end - rows.begin, {}, k, 0, nullptr, stride};
  for (int64_t column = columns.begin; column < columns.end; column += kColumns) {
    const int64_t left = columns.end - column;
    tile.num_columns = left < kColumns ? left : kColumns;
    for (int64_t c = 0; c < kColumns; ++c) {
      tile.w[c] = w + (column + (c < tile.num_columns ? c : tile.num_columns - 1)) * k;
    }
    tile.sums = sums + (column - columns.begin);
    MultiplyColumnTile(tile);
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
