#include "common/kernels/host_memory_backend.h"

#include <cstring>

#include "common/base/status_macros.h"
#include "common/kernels/validate.h"

namespace m1 {

absl::Status HostMemoryBackend::Upload(ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateTransfer(x, out));
  if (x.num_bytes() > 0) std::memcpy(out.data(), x.data(), static_cast<size_t>(x.num_bytes()));
  return absl::OkStatus();
}

absl::Status HostMemoryBackend::Zero(TensorView out) {
  if (out.num_bytes() > 0) std::memset(out.data(), 0, static_cast<size_t>(out.num_bytes()));
  return absl::OkStatus();
}

absl::Status HostMemoryBackend::CopyRows(ConstTensorView x, std::span<const int32_t> x_rows,
                                         TensorView out, std::span<const int32_t> out_rows) {
  M1_RETURN_IF_ERROR(ValidateCopyRows(x, x_rows, out, out_rows));
  if (x_rows.empty()) return absl::OkStatus();
  const int64_t row_bytes = x.num_bytes() / x.dim(0);
  const auto* from = static_cast<const std::byte*>(x.data());
  auto* to = static_cast<std::byte*>(out.data());
  for (size_t i = 0; i < x_rows.size(); ++i) {
    std::memcpy(to + out_rows[i] * row_bytes, from + x_rows[i] * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return absl::OkStatus();
}

}  // namespace m1
