// Tensor views as what the kernels take.
#pragma once

#include "common/kernels/cpu/kernel_args.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

inline ActIn ToActIn(ConstTensorView view) { return {view.data(), view.dtype() == DType::kBf16}; }
inline ActOut ToActOut(TensorView view) { return {view.data(), view.dtype() == DType::kBf16}; }
inline const float* ToFloats(ConstTensorView view) { return view.data_as<float>(); }
inline float* ToFloats(TensorView view) { return view.data_as<float>(); }

}  // namespace m1
