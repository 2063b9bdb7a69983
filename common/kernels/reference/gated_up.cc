#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceGatedUp(ConstTensorView x, ConstTensorView gate, ConstTensorView up, TensorView out) {
  const int64_t k = x.dim(1);
  const int64_t n = gate.dim(0);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t column = 0; column < n; ++column) {
      const float activated = ExactSilu(DotForm(x, row * k, gate, column * k, k));
      StoreAct(out, row * n + column, activated * DotForm(x, row * k, up, column * k, k));
    }
  }
}

}  // namespace m1
