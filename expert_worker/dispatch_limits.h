// What a dispatch frame may hold for this worker, whatever transport brings it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

#include "common/exchange/frame.h"
#include "expert_worker/expert_store.h"

namespace m1 {

struct DispatchLimits {
  ExpertModelShape shape;
  // Rows and pairs that one frame may carry; what exceeds them is refused.
  int32_t max_rows = 2048;
  int32_t max_pairs = 16 * 2048;

  // Before anything is allocated for the frame. Rows that are not in it are for those who have a
  // device link. Errors: InvalidArgument naming what is wrong.
  absl::Status Check(const FrameHeader& header, bool has_device_link = false) const;
};

}  // namespace m1
