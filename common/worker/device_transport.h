// What carries rows from device to device, in programs that were built with it.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "common/exchange/device_link.h"
#include "common/kernels/backend.h"

namespace m1 {

// For rows of a backend of CreateGpuBackend, which outlives it. Errors: Unimplemented in programs
// without NCCL.
absl::StatusOr<std::unique_ptr<DeviceTransport>> CreateDeviceTransport(KernelBackend* backend);

}  // namespace m1
