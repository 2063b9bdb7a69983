#include "common/kernels/exact_math.h"
#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceSigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) {
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    StoreAct(out, i, ExactSigmoid(LoadAct(gate, i)) * LoadAct(x, i));
  }
}

}  // namespace m1
