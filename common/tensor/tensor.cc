#include "common/tensor/tensor.h"

#include <cstdlib>
#include <cstring>

#include "common/base/check.h"

namespace m1 {
namespace {

// The block that an aligned pointer was found in stands right before it.
void FreeAligned(void* data, void* /*owner*/) {
  void* raw = nullptr;
  std::memcpy(&raw, static_cast<char*>(data) - sizeof(void*), sizeof(raw));
  std::free(raw);
}

}  // namespace

Tensor::Tensor(DType dtype, const Shape& shape) : dtype_(dtype), shape_(shape) {
  constexpr size_t kAlignment = 64;
  const size_t bytes = static_cast<size_t>(shape.num_elements() * DTypeBytes(dtype));
  // calloc of a large block maps fresh zero pages, which cost nothing until touched; the aligned
  // pointer is found inside a block one alignment larger.
  const size_t padded = bytes + kAlignment;
  void* raw = std::calloc(padded + sizeof(void*), 1);
  M1_CHECK_MSG(raw != nullptr, "out of memory");
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw) + sizeof(void*);
  void* aligned = reinterpret_cast<void*>((start + kAlignment - 1) / kAlignment * kAlignment);
  std::memcpy(static_cast<char*>(aligned) - sizeof(void*), &raw, sizeof(raw));
  data_ = {aligned, {&FreeAligned, nullptr}};
}

}  // namespace m1
