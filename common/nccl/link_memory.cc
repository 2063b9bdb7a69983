#include "common/nccl/link_memory.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda/runtime.h"
#include "common/nccl/errors.h"

namespace m1::nccl {
namespace {

absl::StatusOr<std::byte*> Allocate(size_t num_bytes) {
  void* data = nullptr;
  M1_RETURN_IF_ERROR(CudaStatus(cuda::AllocateDevice(num_bytes, &data), "memory of a device link"));
  return static_cast<std::byte*>(data);
}

}  // namespace

LinkMemoryPool::~LinkMemoryPool() {
  for (const auto& [num_bytes, memory] : free_) {
    cuda::FreeDevice(memory.outgoing);
    cuda::FreeDevice(memory.incoming);
  }
}

absl::StatusOr<std::shared_ptr<LinkMemory>> LinkMemoryPool::Take(const DeviceSlots& slots) {
  const size_t num_bytes =
      static_cast<size_t>(slots.num_slots) * static_cast<size_t>(slots.slot_bytes);
  LinkMemory memory;
  {
    MutexLock lock(&mutex_);
    if (const auto found = free_.find(num_bytes); found != free_.end()) {
      memory = found->second;
      free_.erase(found);
    }
  }
  if (memory.outgoing == nullptr) {
    M1_ASSIGN_OR_RETURN(memory.outgoing, Allocate(num_bytes));
    absl::StatusOr<std::byte*> incoming = Allocate(num_bytes);
    if (!incoming.ok()) {
      cuda::FreeDevice(memory.outgoing);
      return incoming.status();
    }
    memory.incoming = *incoming;
  }
  return std::shared_ptr<LinkMemory>(new LinkMemory(memory),
                                     [pool = shared_from_this(), num_bytes](LinkMemory* taken) {
                                       pool->Return(num_bytes, *taken);
                                       delete taken;
                                     });
}

void LinkMemoryPool::Return(size_t num_bytes, LinkMemory memory) {
  MutexLock lock(&mutex_);
  free_.emplace(num_bytes, memory);
}

}  // namespace m1::nccl
