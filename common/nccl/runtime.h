// What the transport asks of NCCL, as plain functions: defined by runtime.cu for GPUs and by
// tests/support/fake_nccl.cc over the simulated one. No NCCL header. A Result is an ncclResult_t; 0
// is success. No call waits for another process. The library is looked for by the first call.
#pragma once

#include <array>
#include <cstddef>

#include "common/kernels/cuda/launch.h"

struct ncclComm;

namespace m1::nccl {

using Communicator = ncclComm*;
using Result = int;
inline constexpr Result kSuccess = 0;
inline constexpr Result kInProgress = 7;
inline constexpr Result kNoLibrary = 1000;  // of ours: this machine has no NCCL

struct UniqueId {
  std::array<char, 128> bytes;
};

[[nodiscard]] Result NewUniqueId(UniqueId* id);
// Starts to connect `num_ranks` processes; Progress says when it is done.
[[nodiscard]] Result StartCommunicator(const UniqueId& id, int num_ranks, int rank,
                                       Communicator* communicator);
// kInProgress: the last call has not done what it said; no other may follow. An error: the
// communicator is of no use any more.
[[nodiscard]] Result Progress(Communicator communicator);

// In the stream's order, once Progress gave kSuccess after it; `peer` has asked for the same number
// of bytes, or will. kInProgress is no error.
[[nodiscard]] Result Send(const void* data, size_t bytes, int peer, Communicator communicator,
                          cuda::Stream stream);
[[nodiscard]] Result Receive(void* data, size_t bytes, int peer, Communicator communicator,
                             cuda::Stream stream);
// Between them: what is to happen at the same time, as a rank's sends to itself must.
[[nodiscard]] Result GroupStart();
[[nodiscard]] Result GroupEnd();

// Ends it and what is under way. May wait for other work of the device.
void Abort(Communicator communicator);

// "unhandled system error"
const char* ResultName(Result result);

}  // namespace m1::nccl
