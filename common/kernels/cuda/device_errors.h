// CUDA's errors as statuses, and the handler of those that stick. Thread-compatible.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "common/kernels/cuda/runtime.h"
#include "common/kernels/device_fault.h"

namespace m1::cuda {

class DeviceErrors {
 public:
  // `stream` is borrowed; `on_fault` may be null.
  DeviceErrors(Stream stream, DeviceFaultHandler on_fault)
      : stream_(stream), on_fault_(std::move(on_fault)) {}

  // OK, or Internal naming what failed and CUDA's error. An error that sticks to the device is told
  // to the handler; one of its own call (a shape, no memory) leaves the device as good as before.
  absl::Status ToStatus(LaunchError error, absl::string_view what);

 private:
  const Stream stream_;
  const DeviceFaultHandler on_fault_;
  bool is_told_ = false;
};

}  // namespace m1::cuda
