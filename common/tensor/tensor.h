// An owned tensor. In the host's memory: 64-byte aligned, zero-filled pages from the system until
// first written. Others come from a backend (KernelBackend::NewTensor).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/tensor/dtype.h"
#include "common/tensor/shape.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

class Tensor {
 public:
  Tensor() = default;
  // In the host's memory, zero-filled.
  Tensor(DType dtype, const Shape& shape);
  // Takes over `data`, which holds the elements; free(data, owner) ends them. The owner outlives
  // this.
  Tensor(DType dtype, const Shape& shape, void* data, void (*free)(void* data, void* owner),
         void* owner)
      : dtype_(dtype), shape_(shape), data_(data, {free, owner}) {}

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  TensorView view() { return TensorView(data_.get(), dtype_, shape_); }
  ConstTensorView view() const { return ConstTensorView(data_.get(), dtype_, shape_); }
  template <typename T>
  T* data_as() {
    return view().data_as<T>();
  }
  template <typename T>
  const T* data_as() const {
    return view().data_as<T>();
  }

 private:
  struct Deleter {
    void (*free)(void*, void*);
    void* owner;

    void operator()(void* data) const { free(data, owner); }
  };

  DType dtype_ = DType::kF32;
  Shape shape_;
  std::unique_ptr<void, Deleter> data_{nullptr, {nullptr, nullptr}};
};

}  // namespace m1
