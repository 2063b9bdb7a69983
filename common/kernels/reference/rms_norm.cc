#include <cmath>

#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceRmsNorm(ConstTensorView x, ConstTensorView weight, float eps, TensorView out) {
  const int64_t n = x.dim(1);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    const int64_t begin = row * n;
    const float mean = DotForm(x, begin, x, begin, n) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(mean + eps);
    for (int64_t i = 0; i < n; ++i) {
      StoreAct(out, begin + i, LoadAct(weight, i) * (LoadAct(x, begin + i) * scale));
    }
  }
}

}  // namespace m1
