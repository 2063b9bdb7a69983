// NCCL over the simulated GPU: defines common/nccl/runtime.h between ranks of one process or of two
// of one host, through a unix socket that the unique id names. As with NCCL, a call may be in
// progress and then nothing of it is in its stream yet; a send is done only when the other rank has
// received it; a rank whose process is gone is not noticed: what waits for it never ends but by an
// abort. Stricter than NCCL: each communicator of two ranks carries transfers one way.
#pragma once

#include <cstdint>

namespace m1::nccl {

// What is to go wrong, from now on.
struct FakeNcclFaults {
  bool id_fails = false;
  bool never_connects = false;
  // Transfers that still work; those after do not end, or (with `error`) give an error.
  int64_t good_transfers = INT64_MAX;
  bool error = false;
  // The bytes of messages change on their way.
  bool corrupts = false;
};

// In this process.
void SetFakeNcclFaults(const FakeNcclFaults& faults);
// Communicators that were started and not aborted.
int64_t NumFakeCommunicators();
// Transfers that are done.
int64_t NumFakeTransfers();

}  // namespace m1::nccl
