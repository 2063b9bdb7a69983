#include "common/kernels/cuda/device_errors.h"

#include "absl/strings/str_cat.h"

namespace m1::cuda {

absl::Status DeviceErrors::ToStatus(LaunchError error, absl::string_view what) {
  if (error == 0) return absl::OkStatus();
  const absl::Status status = absl::InternalError(absl::StrCat(what, ": ", ErrorName(error)));
  const bool sticks = Synchronize(stream_) != 0;
  if (sticks && on_fault_ && !std::exchange(is_told_, true)) on_fault_(status);
  return status;
}

}  // namespace m1::cuda
