#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"
#include "common/kernels/reference/quantized_dot.h"

namespace m1 {

void ReferenceLinear(ConstTensorView x, const MatrixView& w, Epilogue epilogue, TensorView out) {
  const int64_t k = x.dim(1);
  const int64_t n = w.dim(0);
  const auto store = [&](int64_t row, int64_t column, float sum) {
    StoreAct(out, row * n + column, epilogue == Epilogue::kSilu ? ExactSilu(sum) : sum);
  };
  for (int64_t row = 0; row < x.dim(0); ++row) {
    if (w.is_quantized()) {
      const QuantizedRow integers = QuantizeRow(x, row * k, k);
      for (int64_t column = 0; column < n; ++column) {
        store(row, column, QuantizedDot(integers, w, column));
      }
      continue;
    }
    for (int64_t column = 0; column < n; ++column) {
      store(row, column, DotForm(x, row * k, w.values, column * k, k));
    }
  }
}

}  // namespace m1
