// The quantised form of backend.h: a row as integers, and its product with a row of a matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "common/kernels/reference/act_row.h"
#include "common/tensor/matrix_view.h"

namespace m1 {

struct QuantizedRow {
  std::vector<int8_t> values;
  float scale = 0.0f;
};

// The n elements of x from `begin`.
QuantizedRow QuantizeRow(ConstTensorView x, int64_t begin, int64_t n);

// x . w[row], where w holds integers.
float QuantizedDot(const QuantizedRow& x, const MatrixView& w, int64_t row);

}  // namespace m1
