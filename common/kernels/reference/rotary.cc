#include <cmath>

#include "common/kernels/reference/act_row.h"
#include "common/kernels/reference/attention_ops.h"

namespace m1 {

absl::Status ReferenceRotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                             TensorView out) {
  if (x.rank() != 3 || x.dtype() != DType::kF32 || !(out.shape() == x.shape()) ||
      !IsAct(out.dtype())) {
    return absl::InvalidArgumentError("rotary: x and out must be [rows, heads, head_dim]");
  }
  const int64_t heads = x.dim(1);
  const int64_t head_dim = x.dim(2);
  if (cos.rank() != 2 || cos.dtype() != DType::kF32 || sin.dtype() != DType::kF32 ||
      !(cos.shape() == sin.shape()) || cos.dim(0) != x.dim(0) || 2 * cos.dim(1) > head_dim) {
    return absl::InvalidArgumentError("rotary: cos and sin must be fp32 [rows, half]");
  }
  const int64_t half = cos.dim(1);
  const float* in = x.data_as<float>();
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t base = (row * heads + head) * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const float c = cos.data_as<float>()[row * half + i];
        const float s = sin.data_as<float>()[row * half + i];
        const float a = in[base + i];
        const float b = in[base + i + half];
        StoreAct(out, base + i, std::fma(-b, s, a * c));
        StoreAct(out, base + i + half, std::fma(a, s, b * c));
      }
      for (int64_t i = 2 * half; i < head_dim; ++i) StoreAct(out, base + i, in[base + i]);
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
