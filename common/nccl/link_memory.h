// The memory of links' slots. It is never given back to the device while the pool lives, but kept
// for the next link: freeing waits for all of the device's work, also for transfers that only an
// abort would end. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"

#include "common/base/mutex.h"
#include "common/exchange/device_link.h"

namespace m1::nccl {

struct LinkMemory {
  std::byte* outgoing = nullptr;
  std::byte* incoming = nullptr;
};

class LinkMemoryPool : public std::enable_shared_from_this<LinkMemoryPool> {
 public:
  ~LinkMemoryPool();

  // For slots that are valid. It comes back to the pool, which it keeps alive, when the last copy
  // of the pointer ends. Errors: Internal when the device has not enough.
  absl::StatusOr<std::shared_ptr<LinkMemory>> Take(const DeviceSlots& slots);

 private:
  void Return(size_t num_bytes, LinkMemory memory);

  Mutex mutex_;
  std::multimap<size_t, LinkMemory> free_ ABSL_GUARDED_BY(mutex_);  // by the bytes of each half
};

}  // namespace m1::nccl
