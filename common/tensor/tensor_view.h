// Borrowed, row-major, contiguous tensors: a pointer, an element type and a shape. Copying a view is
// cheap and never copies elements; whoever owns the memory must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/base/check.h"
#include "common/tensor/dtype.h"
#include "common/tensor/shape.h"

namespace m1 {

template <typename Void, typename Byte>
class BasicTensorView {
 public:
  BasicTensorView() = default;
  BasicTensorView(Void* data, DType dtype, Shape shape)
      : data_(data), dtype_(dtype), shape_(shape) {}

  // A mutable view converts to a const one.
  template <typename V, typename B>
  BasicTensorView(const BasicTensorView<V, B>& other)  // NOLINT(google-explicit-constructor)
    requires(!std::is_same_v<V, Void>)
      : data_(other.data()), dtype_(other.dtype()), shape_(other.shape()) {}

  Void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  int64_t num_elements() const { return shape_.num_elements(); }
  int64_t num_bytes() const { return num_elements() * DTypeBytes(dtype_); }
  bool empty() const { return data_ == nullptr; }

  // The elements as T; T's size must be the dtype's.
  template <typename T>
  auto data_as() const {
    M1_CHECK(sizeof(T) == static_cast<size_t>(DTypeBytes(dtype_)));
    if constexpr (std::is_const_v<Void>) {
      return static_cast<const T*>(data_);
    } else {
      return static_cast<T*>(data_);
    }
  }

  // Rows [begin, begin + count) of the outermost axis.
  BasicTensorView Rows(int64_t begin, int64_t count) const {
    M1_CHECK(rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= dim(0));
    const int64_t row_bytes = dim(0) == 0 ? 0 : num_bytes() / dim(0);
    Shape shape;
    shape.Append(count);
    for (int i = 1; i < rank(); ++i) shape.Append(dim(i));
    return BasicTensorView(static_cast<Byte*>(data_) + begin * row_bytes, dtype_, shape);
  }

  // Element `index` of the outermost axis: the view without that axis.
  BasicTensorView operator[](int64_t index) const {
    const BasicTensorView row = Rows(index, 1);
    Shape shape;
    for (int i = 1; i < rank(); ++i) shape.Append(dim(i));
    return BasicTensorView(row.data(), dtype_, shape);
  }

  // The same elements under another shape of equal size.
  BasicTensorView Reshape(const Shape& shape) const {
    M1_CHECK(shape.num_elements() == num_elements());
    return BasicTensorView(data_, dtype_, shape);
  }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

using TensorView = BasicTensorView<void, std::byte>;
using ConstTensorView = BasicTensorView<const void, const std::byte>;

}  // namespace m1
