#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceLinear(ConstTensorView x, ConstTensorView w, Epilogue epilogue, TensorView out) {
  const int64_t k = x.dim(1);
  const int64_t n = w.dim(0);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t column = 0; column < n; ++column) {
      const float sum = DotForm(x, row * k, w, column * k, k);
      StoreAct(out, row * n + column, epilogue == Epilogue::kSilu ? ExactSilu(sum) : sum);
    }
  }
}

}  // namespace m1
