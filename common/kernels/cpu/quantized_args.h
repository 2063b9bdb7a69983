// What the products of integers are called with. No code and no standard library, see
// kernel_args.h.
#pragma once

#include <stdint.h>

#include "common/kernels/cpu/kernel_args.h"

namespace m1 {

// Rows as integers, in the quantised form of backend.h. Elements from k on are 0.
inline constexpr int64_t kQuantizedStep = 64;
struct QuantizedRows {
  int8_t* values;  // [rows, stride]
  int32_t* quads;  // [rows, stride / 4]: -8 times the sum of each four elements; null: not wanted
  int32_t* sums;   // [rows]: of a row's elements
  float* scales;   // [rows]
  int64_t stride;  // k, rounded up to a multiple of kQuantizedStep
};

struct QuantizeRowsArgs {
  ActIn x;  // [rows, k]
  QuantizedRows out;
  int64_t k;
};

// [n, k] integers, see common/tensor/matrix_view.h.
struct QuantizedMatrix {
  const void* values;
  const void* scales;
  int64_t group_size;  // 0: int8
};

struct QuantizedLinearArgs {
  QuantizedRows x;
  QuantizedMatrix w;
  bool silu;
  ActOut out;  // [rows, n]
  int64_t k;
  int64_t n;
};

struct QuantizedGatedUpArgs {
  QuantizedRows x;
  QuantizedMatrix gate;
  QuantizedMatrix up;
  ActOut out;  // [rows, n]
  int64_t k;
  int64_t n;
};

}  // namespace m1
