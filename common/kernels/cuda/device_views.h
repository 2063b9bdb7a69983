// Views as the kernels' plain pointers, and refusals of what no kernel takes.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/kernels/cuda/portable.h"
#include "common/tensor/tensor_view.h"

namespace m1::cuda {

inline const float* Floats(ConstTensorView view) { return view.data_as<float>(); }
inline float* Floats(TensorView view) { return view.data_as<float>(); }
inline const Bf16* Bf16s(ConstTensorView view) { return view.data_as<Bf16>(); }
inline Bf16* Bf16s(TensorView view) { return view.data_as<Bf16>(); }

inline int32_t Int(int64_t value) { return static_cast<int32_t>(value); }

// Activations: fp32 ones are not offered on a GPU.
inline absl::Status NeedBf16(absl::string_view what, ConstTensorView view) {
  if (view.dtype() == DType::kBf16) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(what, " is ", DTypeName(view.dtype()), ", a GPU takes bf16"));
}

}  // namespace m1::cuda
