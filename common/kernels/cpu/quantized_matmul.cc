// Register tiles of kIntTileRows x kIntTileColumns sums. A tile of columns stays in the first-level
// cache for all rows; meanwhile the next one is fetched.
#include "common/kernels/cpu/quantized_matmul.h"

#include "common/kernels/cpu/simd_integer.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// The rows of w under one tile of columns; where the matrix ends the last one is repeated.
template <typename T>
struct ColumnTile {
  const T* w[kIntTileColumns];
  int64_t index[kIntTileColumns];
  int64_t num_columns;  // valid ones
  int64_t row_bytes;
};

template <typename T>
ColumnTile<T> TileAt(const QuantizedMatrix& w, int64_t row_bytes, int64_t column, int64_t end) {
  ColumnTile<T> tile;
  tile.row_bytes = row_bytes;
  tile.num_columns = end - column < kIntTileColumns ? end - column : kIntTileColumns;
  for (int64_t c = 0; c < kIntTileColumns; ++c) {
    tile.index[c] = column + (c < tile.num_columns ? c : tile.num_columns - 1);
    tile.w[c] = static_cast<const T*>(w.values) + tile.index[c] * row_bytes;
  }
  return tile;
}

// The same place one tile further on; beyond the matrix it does nothing.
template <typename T>
inline void FetchNext(const ColumnTile<T>& tile, int64_t offset) {
  M1_UNROLL
  for (int c = 0; c < kIntTileColumns; ++c) {
    __builtin_prefetch(tile.w[c] + kIntTileColumns * tile.row_bytes + offset, 0, 2);
  }
}

// One step's sums; `load(c)` gives the columns' integers.
template <int kRows, typename Load>
inline void AddInt8Step(const int8_t* const (&x)[kRows], int64_t offset, Load load,
                        IntSums (&sums)[kRows][kIntTileColumns]) {
  Int8x64 b[kIntTileColumns];
  M1_UNROLL
  for (int c = 0; c < kIntTileColumns; ++c) b[c] = load(c);
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) {
      sums[r][c] = AddDots(sums[r][c], x[r] + offset, b[c]);
    }
  }
}

template <int kRows>
void MultiplyInt8Tile(const QuantizedRows& x, int64_t row, const QuantizedMatrix& w, int64_t k,
                      const ColumnTile<int8_t>& tile, float* to, int64_t stride) {
  const int8_t* from[kRows];
  IntSums sums[kRows][kIntTileColumns];
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    from[r] = x.values + (row + r) * x.stride;
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) sums[r][c] = ZeroSums();
  }
  int64_t i = 0;
  for (; i + kQuantizedStep <= k; i += kQuantizedStep) {
    FetchNext(tile, i);
    AddInt8Step<kRows>(
        from, i, [&](int c) { return LoadInt8(tile.w[c] + i); }, sums);
  }
  if (i < k) {
    int8_t rest[kIntTileColumns][kQuantizedStep] = {};
    for (int c = 0; c < kIntTileColumns; ++c) {
      __builtin_memcpy(rest[c], tile.w[c] + i, static_cast<unsigned long>(k - i));
    }
    AddInt8Step<kRows>(
        from, i, [&](int c) { return LoadInt8(rest[c]); }, sums);
  }
  const auto* scales = static_cast<const float*>(w.scales);
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float products[kIntTileColumns];
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) {
      const int32_t total = Total(sums[r][c], x.sums[row + r]);
      products[c] = static_cast<float>(total) * (x.scales[row + r] * scales[tile.index[c]]);
    }
    for (int64_t c = 0; c < tile.num_columns; ++c) to[r * stride + c] = products[c];
  }
}

inline float WidenBf16(const uint16_t* from) {
  const uint32_t bits = uint32_t{*from} << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// The scales of the lanes of one step: all of one group, or eight of each of two.
template <int kGroup>
inline F32x16 StepScales(const uint16_t* scales, bool has_second) {
  if (kGroup == kQuantizedStep) return Set(WidenBf16(scales));
  return SetHalves(WidenBf16(scales), has_second ? WidenBf16(scales + 1) : 0.0f);
}

template <int kRows, int kGroup>
inline void AddInt4Step(const QuantizedRows& x, int64_t row, int64_t offset,
                        const Int4x64 (&w)[kIntTileColumns],
                        const F32x16 (&scales)[kIntTileColumns],
                        F32x16 (&sums)[kRows][kIntTileColumns]) {
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int8_t* values = x.values + (row + r) * x.stride + offset;
    const int32_t* quads = x.quads + ((row + r) * x.stride + offset) / 4;
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) {
      sums[r][c] = Fma(ToFloat(QuadDots(values, quads, w[c])), scales[c], sums[r][c]);
    }
  }
}

template <int kRows, int kGroup>
void MultiplyInt4Tile(const QuantizedRows& x, int64_t row, const QuantizedMatrix& w, int64_t k,
                      const ColumnTile<uint8_t>& tile, float* to, int64_t stride) {
  F32x16 sums[kRows][kIntTileColumns];
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) sums[r][c] = Zero();
  }
  const int64_t num_groups = k / kGroup;
  const auto* scales = static_cast<const uint16_t*>(w.scales);
  Int4x64 b[kIntTileColumns];
  F32x16 b_scales[kIntTileColumns];
  int64_t i = 0;
  for (; i + kQuantizedStep <= k; i += kQuantizedStep) {
    if (i % (2 * kQuantizedStep) == 0) FetchNext(tile, i / 2);
    M1_UNROLL
    for (int c = 0; c < kIntTileColumns; ++c) {
      b[c] = LoadInt4(tile.w[c] + i / 2);
      b_scales[c] = StepScales<kGroup>(scales + tile.index[c] * num_groups + i / kGroup, true);
    }
    AddInt4Step<kRows, kGroup>(x, row, i, b, b_scales, sums);
  }
  if (i < k) {  // half a step: one group of 32
    for (int c = 0; c < kIntTileColumns; ++c) {
      uint8_t rest[kQuantizedStep / 2] = {};
      __builtin_memcpy(rest, tile.w[c] + i / 2, static_cast<unsigned long>((k - i) / 2));
      b[c] = LoadInt4(rest);
      b_scales[c] = StepScales<kGroup>(scales + tile.index[c] * num_groups + i / kGroup, false);
    }
    AddInt4Step<kRows, kGroup>(x, row, i, b, b_scales, sums);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < tile.num_columns; ++c) {
      to[r * stride + c] = ReduceTree(sums[r][c]) * x.scales[row + r];
    }
  }
}

// tile(rows of a tile as a template argument, row, column tile, where its sums go)
template <typename T, typename Tile>
void ForTiles(const QuantizedMatrix& w, int64_t row_bytes, Range rows, Range columns, float* sums,
              int64_t stride, Tile multiply) {
  for (int64_t column = columns.begin; column < columns.end; column += kIntTileColumns) {
    const ColumnTile<T> tile = TileAt<T>(w, row_bytes, column, columns.end);
    float* to = sums + (column - columns.begin);
    int64_t row = rows.begin;
    for (; row + kIntTileRows <= rows.end; row += kIntTileRows) {
      multiply.template operator()<kIntTileRows>(row, tile, to + (row - rows.begin) * stride);
    }
    for (; row < rows.end; ++row) {
      multiply.template operator()<1>(row, tile, to + (row - rows.begin) * stride);
    }
  }
}

template <int kGroup>
void MultiplyInt4(const QuantizedRows& x, const QuantizedMatrix& w, int64_t k, Range rows,
                  Range columns, float* sums, int64_t stride) {
  ForTiles<uint8_t>(w, k / 2, rows, columns, sums, stride,
                    [&]<int kRows>(int64_t row, const ColumnTile<uint8_t>& tile, float* to) {
                      MultiplyInt4Tile<kRows, kGroup>(x, row, w, k, tile, to, stride);
                    });
}

}  // namespace

void MultiplyQuantized(const QuantizedRows& x, const QuantizedMatrix& w, int64_t k, Range rows,
                       Range columns, float* sums, int64_t stride) {
  if (w.group_size == 32) {
    MultiplyInt4<32>(x, w, k, rows, columns, sums, stride);
  } else if (w.group_size == 64) {
    MultiplyInt4<64>(x, w, k, rows, columns, sums, stride);
  } else {
    ForTiles<int8_t>(w, k, rows, columns, sums, stride,
                     [&]<int kRows>(int64_t row, const ColumnTile<int8_t>& tile, float* to) {
                       MultiplyInt8Tile<kRows>(x, row, w, k, tile, to, stride);
                     });
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
