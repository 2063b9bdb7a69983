#include "expert_worker/dispatch_limits.h"

#include "absl/strings/str_cat.h"

namespace m1 {

absl::Status DispatchLimits::Check(const FrameHeader& header, bool has_device_link) const {
  if (header.kind != FrameKind::kDispatch) {
    return absl::InvalidArgumentError("frame is not a dispatch");
  }
  if (!header.rows_in_frame() && !has_device_link) {
    return absl::InvalidArgumentError("rows in a slot without a device link");
  }
  if (header.num_rows > max_rows || header.num_pairs > max_pairs) {
    return absl::InvalidArgumentError(absl::StrCat("frame of ", header.num_rows, " rows and ",
                                                   header.num_pairs, " pairs, this worker takes ",
                                                   max_rows, " and ", max_pairs));
  }
  if (header.hidden != shape.hidden_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows of ", header.hidden, " elements, the model has ", shape.hidden_size));
  }
  return absl::OkStatus();
}

}  // namespace m1
