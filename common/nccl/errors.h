// Errors of CUDA and NCCL as statuses.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "common/kernels/cuda/runtime.h"
#include "common/nccl/runtime.h"

namespace m1::nccl {

// OK, or Internal.
inline absl::Status CudaStatus(cuda::LaunchError error, absl::string_view what) {
  if (error == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cuda::ErrorName(error)));
}

// OK, also while in progress, or Unavailable.
inline absl::Status NcclStatus(Result result, absl::string_view what) {
  if (result == kSuccess || result == kInProgress) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("NCCL: ", what, ": ", ResultName(result)));
}

}  // namespace m1::nccl
