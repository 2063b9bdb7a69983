#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/dense_ops.h"

namespace m1 {

void ReferenceEmbed(std::span<const int32_t> ids, ConstTensorView table, TensorView out) {
  const int64_t n = table.dim(1);
  int64_t row = 0;
  for (const int32_t id : ids) {
    for (int64_t i = 0; i < n; ++i) StoreAct(out, row * n + i, LoadAct(table, id * n + i));
    ++row;
  }
}

}  // namespace m1
