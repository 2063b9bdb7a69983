#include <cmath>

#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceCombineExperts(ConstTensorView y, ConstTensorView weights, TensorView out) {
  const int64_t k = y.dim(1);
  const int64_t n = y.dim(2);
  for (int64_t row = 0; row < y.dim(0); ++row) {
    const float* w = weights.data_as<float>() + row * k;
    for (int64_t i = 0; i < n; ++i) {
      float sum = w[0] * LoadAct(y, row * k * n + i);
      for (int64_t rank = 1; rank < k; ++rank) {
        sum = std::fma(w[rank], LoadAct(y, (row * k + rank) * n + i), sum);
      }
      StoreAct(out, row * n + i, sum);
    }
  }
}

}  // namespace m1
