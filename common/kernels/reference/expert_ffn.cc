#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups, TensorView mid,
                        TensorView out) {
  for (const ExpertGroup& group : groups) {
    const TensorView group_mid = mid.Rows(group.row_begin, group.num_rows);
    ReferenceGatedUp(x.Rows(group.row_begin, group.num_rows), group.w1, group.w3, group_mid);
    ReferenceLinear(group_mid, group.w2, Epilogue::kNone,
                    out.Rows(group.row_begin, group.num_rows));
  }
}

}  // namespace m1
