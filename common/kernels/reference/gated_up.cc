#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"
#include "common/kernels/reference/quantized_dot.h"

namespace m1 {

void ReferenceGatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                      TensorView out) {
  const int64_t k = x.dim(1);
  const int64_t n = gate.dim(0);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    QuantizedRow integers;
    if (gate.is_quantized()) integers = QuantizeRow(x, row * k, k);
    const auto dot = [&](const MatrixView& w, int64_t column) {
      return w.is_quantized() ? QuantizedDot(integers, w, column)
                              : DotForm(x, row * k, w.values, column * k, k);
    };
    for (int64_t column = 0; column < n; ++column) {
      StoreAct(out, row * n + column, ExactSilu(dot(gate, column)) * dot(up, column));
    }
  }
}

}  // namespace m1
