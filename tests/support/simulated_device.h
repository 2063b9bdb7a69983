// The device behind simulated_gpu.h: its memory, its streams and what they were given. For the
// files that define launch.h, runtime.h and measure.h on it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "common/kernels/cuda/launch.h"
#include "tests/support/cuda_simulator.h"
#include "tests/support/simulated_gpu.h"

struct CUevent_st;

namespace m1::cuda {

// What a stream was given and has not done. Work that gives false cannot be done yet.
struct WorkQueue {
  std::deque<SimulatedWork> work;
  uint64_t num_done = 0;

  uint64_t end() const { return num_done + work.size(); }
};

}  // namespace m1::cuda

// Transfer streams; a null stream is the one of kernels.
struct CUstream_st {
  std::shared_ptr<m1::cuda::WorkQueue> queue = std::make_shared<m1::cuda::WorkQueue>();
};

struct CUevent_st {
  std::shared_ptr<m1::cuda::WorkQueue> queue;
  uint64_t mark = 0;
};

namespace m1::cuda {

// cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorInvalidConfiguration,
// cudaErrorIllegalAddress
inline constexpr LaunchError kInvalidValue = 1;
inline constexpr LaunchError kNoMemory = 2;
inline constexpr LaunchError kInvalidConfiguration = 9;
inline constexpr LaunchError kFault = 700;

// A kernel for all of its threads; `args` points to what it takes.
using SimulatedKernel = void (*)(SimulatedThread& thread, const void* args);

// Addresses are never used again, so that what was freed cannot be touched unseen. Thread-safe.
class SimulatedGpu {
 public:
  SimulatedGpu();

  LaunchError Allocate(size_t bytes, void** data);
  void Free(void* data);
  void CountAllocation();

  LaunchError Enqueue(Stream stream, SimulatedWork work);
  LaunchError Enqueue(std::function<void()> work);
  // Does all that the stream was given, up to a fault; waits for what cannot be done yet.
  LaunchError Drain(Stream stream = nullptr);

  void Record(CUevent_st* event, Stream stream);
  LaunchError Query(const CUevent_st& event, bool* done);
  // As of now: the event may be recorded again.
  LaunchError Wait(Stream stream, const CUevent_st& event);
  void Close(Stream stream);

  // Of work that was enqueued: the launch happens now.
  void Run(const LaunchGrid& grid, SimulatedKernel kernel, const void* args);
  void CountGraphs(int64_t made, int64_t run);

  // The device is lost before what it does next.
  void Lose() { is_lost_ = true; }
  void Reset();
  const char* fault() const { return fault_.c_str(); }
  SimulatedGpuStats stats() const;

 private:
  std::shared_ptr<WorkQueue> QueueOf(Stream stream) {
    return stream == nullptr ? kernels_ : stream->queue;
  }
  LaunchError State();
  // Does the queue's work up to the mark. False when some of it cannot be done yet.
  bool Advance(WorkQueue& queue, uint64_t mark);
  void Protect(int access);

  std::byte* const base_;
  mutable std::recursive_mutex mutex_;
  std::atomic<bool> is_lost_ = false;  // set by a handler of signals
  int depth_ = 0;                      // of Advance, which one stream's work may call for another's
  size_t used_ = 0;
  SimulatedMemory memory_;
  std::map<void*, size_t> blocks_;
  const std::shared_ptr<WorkQueue> kernels_ = std::make_shared<WorkQueue>();
  std::string fault_;
  SimulatedGpuStats stats_;

  static_assert(std::atomic<bool>::is_always_lock_free);
};

// The one there is.
SimulatedGpu& Gpu();

}  // namespace m1::cuda
