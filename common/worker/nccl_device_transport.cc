#include "common/kernels/cuda_backend.h"
#include "common/nccl/nccl_transport.h"
#include "common/worker/device_transport.h"

namespace m1 {

absl::StatusOr<std::unique_ptr<DeviceTransport>> CreateDeviceTransport(KernelBackend* backend) {
  return CreateNcclTransport(backend, StreamOf(*backend));
}

}  // namespace m1
