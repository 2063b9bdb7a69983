#include <cmath>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceSharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                              ConstTensorView coefficient_logit, TensorView out) {
  const int64_t n = moe.dim(1);
  for (int64_t row = 0; row < moe.dim(0); ++row) {
    const float c = ExactSigmoid(coefficient_logit.data_as<float>()[row]);
    for (int64_t i = row * n; i < (row + 1) * n; ++i) {
      out.data_as<float>()[i] =
          std::fma(shared.data_as<float>()[i], c, moe.data_as<float>()[i] * (1.0f - c));
    }
  }
}

}  // namespace m1
