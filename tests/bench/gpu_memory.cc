#include "tests/bench/gpu_memory.h"

#include <algorithm>
#include <string>

#include "common/base/check.h"

namespace m1 {
namespace {

// Words of 16 bits: a sign, an exponent of 2^-6 to 2^-3, seven bits. As bf16, and in pairs as fp32,
// numbers of that size; their bytes as int8 or int4 are of all sizes.
Tensor Pattern(int64_t bytes) {
  Tensor pattern(DType::kI8, {bytes});
  uint64_t state = 1;
  auto* words = static_cast<uint16_t*>(pattern.view().data());
  for (int64_t i = 0; i < bytes / 2; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto random = static_cast<uint32_t>(state >> 40);
    words[i] = static_cast<uint16_t>((random & 0x807fU) | ((121 + (random >> 8) % 4) << 7));
  }
  return pattern;
}

}  // namespace

void GpuMemory::Fill(KernelBackend* backend) {
  constexpr int64_t kPieceBytes = int64_t{64} << 20;
  const Tensor pattern = Pattern(std::min(kPieceBytes, bytes() / 2 * 2));
  const int64_t piece = pattern.shape()[0];
  for (int64_t first = 0; first < bytes(); first += piece) {
    const int64_t count = std::min(piece, bytes() - first);
    const absl::Status status =
        backend->Upload(pattern.view().Rows(0, count), memory_.view().Rows(first, count));
    M1_CHECK_MSG(status.ok(), std::string(status.message()));
  }
}

TensorView GpuMemory::Next(DType dtype, const Shape& shape) {
  constexpr int64_t kAlignment = 256;
  const int64_t wanted = shape.num_elements() * DTypeBytes(dtype);
  M1_CHECK_MSG(wanted <= bytes(), "too little memory for one operand");
  if (next_ + wanted > bytes()) next_ = 0;
  const TensorView view(memory_.data_as<int8_t>() + next_, dtype, shape);
  next_ += (wanted + kAlignment - 1) / kAlignment * kAlignment;
  return view;
}

}  // namespace m1
