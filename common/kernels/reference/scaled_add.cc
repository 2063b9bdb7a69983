#include <cmath>

#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                        TensorView out) {
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    out.data_as<float>()[i] = std::fma(beta, y.data_as<float>()[i], alpha * x.data_as<float>()[i]);
  }
}

}  // namespace m1
