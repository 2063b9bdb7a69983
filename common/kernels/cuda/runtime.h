// What the backend asks of the device beside kernels: memory, copies, order. Plain functions, as in
// launch.h, defined by runtime.cu and graphs.cu for a GPU and by tests/support/simulated_gpu.cc for
// the simulator. An error is a cudaError_t; 0 is success.
#pragma once

#include <cstddef>

#include "common/kernels/cuda/launch.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace m1::cuda {

// A stream of the first GPU.
[[nodiscard]] LaunchError OpenStream(Stream* stream);
void CloseStream(Stream stream);

// Memory of the device, zero-filled, aligned to 256 bytes.
[[nodiscard]] LaunchError AllocateDevice(size_t bytes, void** data);
void FreeDevice(void* data);
// Bytes that can be allocated now.
[[nodiscard]] LaunchError AvailableDeviceBytes(size_t* bytes);

// Memory of the host that copies from and to a device read and write on their own time.
[[nodiscard]] LaunchError AllocatePinned(size_t bytes, void** data);
void FreePinned(void* data);
// Makes whole pages of the host's memory such memory. Any thread.
[[nodiscard]] LaunchError RegisterPinned(void* data, size_t bytes);
void UnregisterPinned(void* data);

// In the stream's order; pinned memory is the stream's until Synchronize. ToHost and ToDevice take
// any memory of the host and have done with it when they return.
[[nodiscard]] LaunchError CopyFromPinned(void* device, const void* pinned, size_t bytes,
                                         Stream stream);
[[nodiscard]] LaunchError ToDevice(void* device, const void* host, size_t bytes, Stream stream);
[[nodiscard]] LaunchError ToHost(void* host, const void* device, size_t bytes, Stream stream);
[[nodiscard]] LaunchError FillZero(void* device, size_t bytes, Stream stream);

// The list's copy and launches, one by one.
[[nodiscard]] LaunchError RunList(const LaunchList& list, Stream stream);
// The same as one piece of work, made ready before: arguments are those that the list has now, what
// its copy brings is what lies there when it runs.
using Graph = CUgraphExec_st*;
[[nodiscard]] LaunchError NewGraph(const LaunchList& list, Graph* graph);
[[nodiscard]] LaunchError RunGraph(Graph graph, Stream stream);
// May still run, or be null.
void FreeGraph(Graph graph);

// Waits for all that was enqueued.
[[nodiscard]] LaunchError Synchronize(Stream stream);

// A stream for what must not queue behind kernels: of the highest priority, asked about and never
// waited for. Ended by CloseStream.
[[nodiscard]] LaunchError OpenTransferStream(Stream* stream);

// A mark in a stream's work.
using Event = CUevent_st*;
[[nodiscard]] LaunchError NewEvent(Event* event);
void FreeEvent(Event event);
// The mark stands behind all that the stream was given up to now.
[[nodiscard]] LaunchError RecordEvent(Event event, Stream stream);
// What the stream is given from now on begins after the mark's work.
[[nodiscard]] LaunchError WaitEvent(Stream stream, Event event);
// Whether the work before the mark is done. Does not wait.
[[nodiscard]] LaunchError QueryEvent(Event event, bool* done);

// A time in a stream's work, as the device passes it.
struct TimestampEvent;
using Timestamp = TimestampEvent*;
[[nodiscard]] LaunchError NewTimestamp(Timestamp* timestamp);
void FreeTimestamp(Timestamp timestamp);
// Behind all that the stream was given up to now.
[[nodiscard]] LaunchError RecordTimestamp(Timestamp timestamp, Stream stream);
// Does not wait: `is_passed` says whether the device has passed `end`, and so `milliseconds`
// counts.
[[nodiscard]] LaunchError Elapsed(Timestamp begin, Timestamp end, bool* is_passed,
                                  float* milliseconds);

// "cudaErrorInvalidValue"
const char* ErrorName(LaunchError error);

}  // namespace m1::cuda
