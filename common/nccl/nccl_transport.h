// DeviceTransport over NCCL between GPUs, one link for each attention and expert worker. A pair of
// its own, not a group of all: a communicator is lost with any of its ranks, so that the death of
// one expert worker would end the exchange with all others.
#pragma once

#include <memory>

#include "common/exchange/device_link.h"
#include "common/kernels/backend.h"
#include "common/kernels/cuda/launch.h"

namespace m1 {

// `backend` outlives the transport; `stream` is that of its operations.
std::unique_ptr<DeviceTransport> CreateNcclTransport(KernelBackend* backend, cuda::Stream stream);

}  // namespace m1
