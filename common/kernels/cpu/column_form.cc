#include "common/kernels/cpu/column_form.h"

#include "common/kernels/cpu/kernel_args.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

// Vectors of a row in one tile: a divisor of the 8 of a head of 128, with enough sums in flight.
constexpr int kVectors = kTileColumns < 4 ? kTileColumns : 4;

template <typename T>
struct Step;

template <>
struct Step<float> {
  static F32x16 Weight(const float* from) { return Set(*from); }
  static F32x16 Values(const float* from) { return Load(from); }
  static F32x16 Add(F32x16 sum, F32x16 weight, F32x16 values) { return Fma(weight, values, sum); }
};
template <>
struct Step<uint16_t> {
  static Bf16x32 Weight(const uint16_t* from) { return SetPairs(from); }
  static Bf16x32 Values(const uint16_t* from) { return LoadPairs(from); }
  static F32x16 Add(F32x16 sum, const Bf16x32& weight, const Bf16x32& values) {
    return Dot(sum, weight, values);
  }
};

// Steps `steps` of kRows rows from `row` and 16 * kWidth elements from e.
template <int kRows, int kWidth, typename T>
inline void AddTile(const ColumnForm<T>& form, int64_t row, int64_t e, Range steps) {
  float* to = form.sums + row * form.width + e;
  F32x16 sums[kRows][kWidth];
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    M1_UNROLL
    for (int v = 0; v < kWidth; ++v) sums[r][v] = Load(to + r * form.width + 16 * v);
  }
  const T* weights = form.weights + row * form.weight_row_stride;
  const T* values = form.values + e * kKeysPerStep<T>;
  for (int64_t s = steps.begin; s < steps.end; ++s) {
    const T* step_weights = weights + s * form.weight_step_stride;
    const T* step_values = values + s * form.value_step_stride;
    M1_UNROLL
    for (int v = 0; v < kWidth; ++v) {
      const auto b = Step<T>::Values(step_values + v * 16 * kKeysPerStep<T>);
      M1_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const auto a = Step<T>::Weight(step_weights + r * form.weight_row_stride);
        sums[r][v] = Step<T>::Add(sums[r][v], a, b);
      }
    }
  }
  M1_UNROLL
  for (int r = 0; r < kRows; ++r) {
    M1_UNROLL
    for (int v = 0; v < kWidth; ++v) Store(sums[r][v], to + r * form.width + 16 * v);
  }
}

template <int kRows, typename T>
void AddRows(const ColumnForm<T>& form, int64_t row, Range steps) {
  if (steps.begin >= steps.end) return;
  int64_t e = 0;
  for (; e + 16 * kVectors <= form.width; e += 16 * kVectors) {
    AddTile<kRows, kVectors>(form, row, e, steps);
  }
  for (; e < form.width; e += 16) AddTile<kRows, 1>(form, row, e, steps);
}

// The first key of a pair whose second counts as zero.
void AddHalfPair(const ColumnForm<uint16_t>& form, int64_t row, int64_t step) {
  const uint16_t* weight =
      form.weights + row * form.weight_row_stride + step * form.weight_step_stride;
  const uint16_t pair[2] = {*weight, 0};
  const Bf16x32 a = SetPairs(pair);
  const uint16_t* values = form.values + step * form.value_step_stride;
  float* to = form.sums + row * form.width;
  for (int64_t e = 0; e < form.width; e += 16) {
    Store(Dot(Load(to + e), a, EvenOnly(LoadPairs(values + 2 * e))), to + e);
  }
}

}  // namespace

template <typename T>
void AddColumnForm(const ColumnForm<T>& form, int64_t num_rows, const int64_t* num_keys) {
  constexpr int64_t kKeys = kKeysPerStep<T>;
  for (int64_t row = 0; row < num_rows;) {
    const int64_t rows = num_rows - row >= kTileRows ? kTileRows : 1;
    int64_t common = num_keys[row] / kKeys;
    for (int64_t r = row + 1; r < row + rows; ++r) {
      if (num_keys[r] / kKeys < common) common = num_keys[r] / kKeys;
    }
    if (rows == kTileRows) {
      AddRows<kTileRows>(form, row, {0, common});
    } else {
      AddRows<1>(form, row, {0, common});
    }
    for (const int64_t end = row + rows; row < end; ++row) {
      AddRows<1>(form, row, {common, num_keys[row] / kKeys});
      if constexpr (kKeys == 2) {
        if (num_keys[row] % 2 != 0) AddHalfPair(form, row, num_keys[row] / 2);
      }
    }
  }
}

template void AddColumnForm<float>(const ColumnForm<float>&, int64_t, const int64_t*);
template void AddColumnForm<uint16_t>(const ColumnForm<uint16_t>&, int64_t, const int64_t*);

void InterleavePairs(const uint16_t* rows, int64_t num_pairs, int64_t width, uint16_t* pairs) {
  for (int64_t i = 0; i < num_pairs; ++i) {
    const uint16_t* even = rows + 2 * i * width;
    const uint16_t* odd = even + width;
    uint16_t* to = pairs + 2 * i * width;
    for (int64_t e = 0; e < width; ++e) {
      to[2 * e] = even[e];
      to[2 * e + 1] = odd[e];
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
