// Sums in column form: rows of weights times rows of values, one accumulator per output element.
#pragma once

#include "common/kernels/cpu/simd.h"

namespace m1::M1_SIMD_NAMESPACE {

// sums[row, e] += weight[row, key] * value[key, e], keys in the column form's order. A step is one
// key in fp32 and two in bf16: there the weights of a pair stand side by side, and so do its values
// of each e (InterleavePairs).
template <typename T>
struct ColumnForm {
  const T*
      weights;  // of `row` at step s: weights + row * weight_row_stride + s * weight_step_stride
  int64_t weight_row_stride;
  int64_t weight_step_stride;
  const T* values;  // of step s: values + s * value_step_stride
  int64_t value_step_stride;
  int64_t width;  // elements e, a multiple of 16
  float* sums;    // [rows, width]
};

template <typename T>
inline constexpr int64_t kKeysPerStep = sizeof(T) == sizeof(uint16_t) ? 2 : 1;

// Adds keys [0, num_keys[row]) to each row; an odd bf16 key at the end is paired with zeros.
template <typename T>
void AddColumnForm(const ColumnForm<T>& form, int64_t num_rows, const int64_t* num_keys);

extern template void AddColumnForm<float>(const ColumnForm<float>&, int64_t, const int64_t*);
extern template void AddColumnForm<uint16_t>(const ColumnForm<uint16_t>&, int64_t, const int64_t*);

// Rows 2i and 2i + 1 of `rows` to row i of `pairs`, their elements in turn.
// rows [2 * num_pairs, width]; pairs [num_pairs, 2 * width].
void InterleavePairs(const uint16_t* rows, int64_t num_pairs, int64_t width, uint16_t* pairs);

}  // namespace m1::M1_SIMD_NAMESPACE
