#include "tests/support/simulated_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "common/kernels/exact_math.h"

namespace m1::cuda {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kAddressBytes = size_t{1} << 36;

}  // namespace

SimulatedGpu::SimulatedGpu()
    : base_(static_cast<std::byte*>(mmap(nullptr, kAddressBytes, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  if (base_ == MAP_FAILED) std::abort();
}

LaunchError SimulatedGpu::Allocate(size_t bytes, void** data) {
  const std::lock_guard lock(mutex_);
  const size_t pages = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (stats_.allocated_bytes + static_cast<int64_t>(bytes) > kSimulatedGpuBytes ||
      pages > kAddressBytes - used_) {
    return kNoMemory;
  }
  *data = base_ + used_;
  used_ += pages;
  memory_.AddDevice(*data, bytes);
  blocks_[*data] = bytes;
  stats_.allocated_bytes += static_cast<int64_t>(bytes);
  ++stats_.allocations;
  return 0;
}

void SimulatedGpu::Free(void* data) {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(data);
  if (block == blocks_.end()) return;
  Advance(*kernels_, kernels_->end());
  memory_.RemoveDevice(data);
  stats_.allocated_bytes -= static_cast<int64_t>(block->second);
  madvise(data, block->second, MADV_DONTNEED);
  blocks_.erase(block);
}

void SimulatedGpu::CountAllocation() {
  const std::lock_guard lock(mutex_);
  ++stats_.allocations;
}

LaunchError SimulatedGpu::Enqueue(Stream stream, SimulatedWork work) {
  const std::lock_guard lock(mutex_);
  QueueOf(stream)->work.push_back(std::move(work));
  return State();
}

LaunchError SimulatedGpu::Enqueue(std::function<void()> work) {
  return Enqueue(nullptr, [work = std::move(work)] {
    work();
    return true;
  });
}

LaunchError SimulatedGpu::Drain(Stream stream) {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      const std::shared_ptr<WorkQueue> queue = QueueOf(stream);
      if (State() != 0 || Advance(*queue, queue->end())) return State();
    }
    usleep(50);
  }
}

void SimulatedGpu::Record(CUevent_st* event, Stream stream) {
  const std::lock_guard lock(mutex_);
  event->queue = QueueOf(stream);
  event->mark = event->queue->end();
}

LaunchError SimulatedGpu::Query(const CUevent_st& event, bool* done) {
  const std::lock_guard lock(mutex_);
  *done = event.queue == nullptr || Advance(*event.queue, event.mark);
  return State();
}

LaunchError SimulatedGpu::Wait(Stream stream, const CUevent_st& event) {
  return Enqueue(stream, [this, queue = event.queue, mark = event.mark] {
    return queue == nullptr || Advance(*queue, mark);
  });
}

void SimulatedGpu::Close(Stream stream) {
  const std::lock_guard lock(mutex_);
  stream->queue->num_done = stream->queue->end();
  stream->queue->work.clear();
  delete stream;
}

void SimulatedGpu::Run(const LaunchGrid& grid, SimulatedKernel kernel, const void* args) {
  const ScopedFlushDenormals flush;
  const SimulationReport report = Simulate({grid.blocks, grid.threads, grid.shared_bytes}, memory_,
                                           [=](SimulatedThread& thread) { kernel(thread, args); });
  ++stats_.launches;
  stats_.mmas += report.mmas;
  stats_.bank_conflicts += report.bank_conflicts;
  if (!report.errors.empty()) fault_ = "cudaErrorIllegalAddress: " + report.errors.front();
}

void SimulatedGpu::CountGraphs(int64_t made, int64_t run) {
  const std::lock_guard lock(mutex_);
  stats_.graphs += made;
  stats_.graph_runs += run;
}

void SimulatedGpu::Reset() {
  const std::lock_guard lock(mutex_);
  kernels_->num_done = kernels_->end();
  kernels_->work.clear();
  fault_.clear();
  is_lost_ = false;
}

SimulatedGpuStats SimulatedGpu::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

LaunchError SimulatedGpu::State() {
  if (fault_.empty() && is_lost_) fault_ = "cudaErrorLaunchFailure";
  return fault_.empty() ? 0 : kFault;
}

bool SimulatedGpu::Advance(WorkQueue& queue, uint64_t mark) {
  if (queue.num_done >= mark) return true;
  if (depth_++ == 0) Protect(PROT_READ | PROT_WRITE);
  while (queue.num_done < mark && (!fault_.empty() || queue.work.front()())) {
    queue.work.pop_front();
    ++queue.num_done;
  }
  if (--depth_ == 0) Protect(PROT_NONE);
  return queue.num_done >= mark;
}

void SimulatedGpu::Protect(int access) {
  if (used_ > 0 && mprotect(base_, used_, access) != 0) std::abort();
}

SimulatedGpu& Gpu() {
  static auto* gpu = new SimulatedGpu;  // outlives tensors of static storage
  return *gpu;
}

}  // namespace m1::cuda
