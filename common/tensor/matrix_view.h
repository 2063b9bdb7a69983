// A borrowed matrix that products multiply by, as a checkpoint holds it: fp32 or bf16 elements, or
// integers with scales.
//   int8: element [r, c] is values[r, c] * scales[r];                    |values| <= 127
//   int4: element [r, c] is (nibble(r, c) - 8) * scales[r, c / group];   nibble(r, 2i) is the lower
//         and nibble(r, 2i + 1) the upper half of byte values[r, i]
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"

namespace m1 {

enum class MatrixFormat : uint8_t { kPlain, kInt8, kInt4 };

struct MatrixView {
  MatrixView() = default;
  // fp32 or bf16.
  MatrixView(ConstTensorView plain) : values(plain) {}  // NOLINT(google-explicit-constructor)
  MatrixView(TensorView plain) : values(plain) {}       // NOLINT(google-explicit-constructor)
  MatrixView(ConstTensorView integers, ConstTensorView their_scales)
      : values(integers), scales(their_scales) {}

  MatrixFormat format() const {
    if (values.dtype() == DType::kI8) return MatrixFormat::kInt8;
    return values.dtype() == DType::kU8 ? MatrixFormat::kInt4 : MatrixFormat::kPlain;
  }
  bool is_quantized() const { return format() != MatrixFormat::kPlain; }

  // Of the matrix, [.., out, in], whatever its elements are packed into.
  Shape shape() const {
    if (format() != MatrixFormat::kInt4) return values.shape();
    Shape shape;
    for (int axis = 0; axis < values.rank(); ++axis) {
      shape.Append(values.dim(axis) * (axis + 1 == values.rank() ? 2 : 1));
    }
    return shape;
  }
  int64_t dim(int axis) const { return shape()[axis]; }
  // Elements that share a scale, of int4; 0 while the shapes do not say.
  int64_t group_size() const {
    if (scales.rank() < 1 || scales.rank() != values.rank()) return 0;
    const int64_t groups = scales.dim(scales.rank() - 1);
    return groups == 0 ? 0 : dim(values.rank() - 1) / groups;
  }
  int64_t num_bytes() const {
    return values.num_bytes() + (is_quantized() ? scales.num_bytes() : 0);
  }
  bool empty() const { return values.empty(); }

  // As TensorView has them, along the outermost axis.
  MatrixView Rows(int64_t begin, int64_t count) const {
    return {values.Rows(begin, count), is_quantized() ? scales.Rows(begin, count) : scales};
  }
  MatrixView operator[](int64_t index) const {
    return {values[index], is_quantized() ? scales[index] : scales};
  }

  ConstTensorView values;  // fp32, bf16 or int8 [.., out, in]; uint8 [.., out, in / 2]
  ConstTensorView scales;  // int8: fp32 [.., out]; int4: bf16 [.., out, in / group]; else empty
};

}  // namespace m1
