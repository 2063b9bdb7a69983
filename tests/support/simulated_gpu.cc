#include "tests/support/simulated_gpu.h"

#include <signal.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/runtime.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/simulated_device.h"
#include "tests/support/simulated_pinned.h"

namespace m1 {

bool OnRealGpu() { return false; }

}  // namespace m1

// A list as it was when the graph was made.
struct CUgraphExec_st {
  std::shared_ptr<const m1::cuda::LaunchList> list;
};

namespace m1::cuda {

// On the device's clock: milliseconds, of which a launch takes one.
struct TimestampEvent {
  struct Passage {
    int64_t at = 0;
    bool is_passed = false;
  };
  std::shared_ptr<Passage> passage;  // of the last record, whose work may outlive this
};

namespace {

PinnedRanges& Pinned() {
  static auto* pinned = new PinnedRanges;
  return *pinned;
}

SimulatedWork Copy(void* to, const void* from, size_t bytes) {
  return [=] {
    std::memcpy(to, from, bytes);
    return true;
  };
}

LaunchError Enqueue(const std::shared_ptr<const LaunchList>& list, Stream stream) {
  const PinnedCopy& copy = list->copy();
  LaunchError error =
      copy.bytes == 0 ? 0 : CopyFromPinned(copy.device, copy.pinned, copy.bytes, stream);
  for (const LaunchList::Launch& launch : list->launches()) {
    if (error != 0) return error;
    error = Gpu().Enqueue([list, &launch] {
      Gpu().Run(launch.grid, reinterpret_cast<SimulatedKernel>(const_cast<void*>(launch.kernel)),
                list->args(launch));
    });
  }
  return error;
}

}  // namespace

SimulatedGpuStats GetSimulatedGpuStats() {
  SimulatedGpuStats stats = Gpu().stats();
  stats.pinned_bytes = Pinned().num_bytes();
  stats.pageable_copies = Pinned().num_pageable_copies();
  return stats;
}
void LimitPinnedMemory(int64_t bytes) { Pinned().set_limit(bytes); }
void LoseSimulatedGpu() { Gpu().Lose(); }
void ResetSimulatedGpu() { Gpu().Reset(); }
LaunchError EnqueueSimulated(Stream stream, SimulatedWork work) {
  return Gpu().Enqueue(stream, std::move(work));
}

// runtime.h
LaunchError OpenStream(Stream* stream) {
  Gpu();  // it is there when a signal comes
  signal(SIGUSR1, [](int) { LoseSimulatedGpu(); });
  *stream = nullptr;
  return 0;
}
void CloseStream(Stream stream) {
  if (stream != nullptr) Gpu().Close(stream);
}
LaunchError AllocateDevice(size_t bytes, void** data) { return Gpu().Allocate(bytes, data); }
void FreeDevice(void* data) { Gpu().Free(data); }
LaunchError AvailableDeviceBytes(size_t* bytes) {
  *bytes = static_cast<size_t>(kSimulatedGpuBytes - Gpu().stats().allocated_bytes);
  return 0;
}
LaunchError AllocatePinned(size_t bytes, void** data) {
  Gpu().CountAllocation();
  *data = std::malloc(bytes);
  if (*data != nullptr && Pinned().Add(*data, bytes)) return 0;
  std::free(*data);
  *data = nullptr;
  return kNoMemory;
}
void FreePinned(void* data) {
  if (data == nullptr) return;
  if (!Pinned().Remove(data)) std::abort();
  std::free(data);
}
LaunchError RegisterPinned(void* data, size_t bytes) {
  return Pinned().Add(data, bytes) ? 0 : kNoMemory;
}
void UnregisterPinned(void* data) {
  if (!Pinned().Remove(data)) std::abort();
}
LaunchError CopyFromPinned(void* device, const void* pinned, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memcpy(device, pinned, bytes); });
}
LaunchError ToDevice(void* device, const void* host, size_t bytes, Stream stream) {
  Pinned().CountCopy(host, bytes);
  const LaunchError error = Gpu().Enqueue(stream, Copy(device, host, bytes));
  return error != 0 ? error : Gpu().Drain(stream);
}
LaunchError ToHost(void* host, const void* device, size_t bytes, Stream stream) {
  Pinned().CountCopy(host, bytes);
  const LaunchError error = Gpu().Enqueue(stream, Copy(host, device, bytes));
  return error != 0 ? error : Gpu().Drain(stream);
}
LaunchError FillZero(void* device, size_t bytes, Stream) {
  return Gpu().Enqueue([=] { std::memset(device, 0, bytes); });
}
LaunchError RunList(const LaunchList& list, Stream stream) {
  return Enqueue(std::make_shared<const LaunchList>(list), stream);
}
LaunchError NewGraph(const LaunchList& list, Graph* graph) {
  *graph = new CUgraphExec_st{std::make_shared<const LaunchList>(list)};
  Gpu().CountGraphs(1, 0);
  return 0;
}
LaunchError RunGraph(Graph graph, Stream stream) {
  Gpu().CountGraphs(0, 1);
  return Enqueue(graph->list, stream);
}
void FreeGraph(Graph graph) {
  if (graph != nullptr) Gpu().CountGraphs(-1, 0);
  delete graph;
}
LaunchError Synchronize(Stream stream) { return Gpu().Drain(stream); }
LaunchError OpenTransferStream(Stream* stream) {
  *stream = new CUstream_st;
  return 0;
}
LaunchError NewEvent(Event* event) {
  *event = new CUevent_st;
  return 0;
}
void FreeEvent(Event event) { delete event; }
LaunchError RecordEvent(Event event, Stream stream) {
  Gpu().Record(event, stream);
  return 0;
}
LaunchError WaitEvent(Stream stream, Event event) { return Gpu().Wait(stream, *event); }
LaunchError QueryEvent(Event event, bool* done) { return Gpu().Query(*event, done); }
LaunchError NewTimestamp(Timestamp* timestamp) {
  *timestamp = new TimestampEvent;
  return 0;
}
void FreeTimestamp(Timestamp timestamp) { delete timestamp; }
LaunchError RecordTimestamp(Timestamp timestamp, Stream) {
  timestamp->passage = std::make_shared<TimestampEvent::Passage>();
  return Gpu().Enqueue([passage = timestamp->passage] {
    *passage = {Gpu().stats().launches, true};
  });
}
LaunchError Elapsed(Timestamp begin, Timestamp end, bool* is_passed, float* milliseconds) {
  *is_passed = end->passage->is_passed;
  *milliseconds = static_cast<float>(end->passage->at - begin->passage->at);
  return 0;
}
const char* ErrorName(LaunchError error) {
  switch (error) {
    case kFault:
      return Gpu().fault();
    case kNoMemory:
      return "cudaErrorMemoryAllocation";
    case kInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    default:
      return "cudaErrorInvalidValue";
  }
}

}  // namespace m1::cuda
