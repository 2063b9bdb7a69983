#include <cstdlib>

#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

LaunchError OpenStream(Stream* stream) {
  // All kernels are loaded now, not one by one when a request first needs them.
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  return Forget(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
}
void CloseStream(Stream stream) { cudaStreamDestroy(stream); }

LaunchError AllocateDevice(size_t bytes, void** data) {
  if (const cudaError_t error = cudaMalloc(data, bytes); error != cudaSuccess) return Forget(error);
  // cudaMemset returns before it is done, and streams that do not block do not wait for it.
  cudaError_t error = cudaMemset(*data, 0, bytes);
  if (error == cudaSuccess) error = cudaStreamSynchronize(cudaStreamLegacy);
  if (error == cudaSuccess) return error;
  cudaFree(*data);
  *data = nullptr;
  return Forget(error);
}
void FreeDevice(void* data) { cudaFree(data); }
LaunchError AvailableDeviceBytes(size_t* bytes) {
  size_t total = 0;
  return Forget(cudaMemGetInfo(bytes, &total));
}

LaunchError AllocatePinned(size_t bytes, void** data) {
  return Forget(cudaMallocHost(data, bytes));
}
void FreePinned(void* data) { cudaFreeHost(data); }
LaunchError RegisterPinned(void* data, size_t bytes) {
  return Forget(cudaHostRegister(data, bytes, cudaHostRegisterDefault));
}
void UnregisterPinned(void* data) { static_cast<void>(Forget(cudaHostUnregister(data))); }

LaunchError CopyFromPinned(void* device, const void* pinned, size_t bytes, Stream stream) {
  return Forget(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream));
}
// Pageable memory of more than 64 KiB may still be read when cudaMemcpyAsync has returned.
LaunchError ToDevice(void* device, const void* host, size_t bytes, Stream stream) {
  const cudaError_t error = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream);
  return Forget(error != cudaSuccess ? error : cudaStreamSynchronize(stream));
}
LaunchError ToHost(void* host, const void* device, size_t bytes, Stream stream) {
  const cudaError_t error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream);
  return Forget(error != cudaSuccess ? error : cudaStreamSynchronize(stream));
}
LaunchError FillZero(void* device, size_t bytes, Stream stream) {
  return Forget(cudaMemsetAsync(device, 0, bytes, stream));
}

LaunchError Synchronize(Stream stream) { return Forget(cudaStreamSynchronize(stream)); }

LaunchError OpenTransferStream(Stream* stream) {
  int least = 0;
  int greatest = 0;
  const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (error != cudaSuccess) return Forget(error);
  return Forget(cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, greatest));
}

LaunchError NewEvent(Event* event) {
  return Forget(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
}
void FreeEvent(Event event) { cudaEventDestroy(event); }
LaunchError RecordEvent(Event event, Stream stream) {
  return Forget(cudaEventRecord(event, stream));
}
LaunchError WaitEvent(Stream stream, Event event) {
  return Forget(cudaStreamWaitEvent(stream, event, 0));
}
LaunchError QueryEvent(Event event, bool* done) {
  const cudaError_t error = Forget(cudaEventQuery(event));
  *done = error == cudaSuccess;
  return error == cudaErrorNotReady ? cudaSuccess : error;
}

struct TimestampEvent {
  cudaEvent_t event = nullptr;
};

LaunchError NewTimestamp(Timestamp* timestamp) {
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreate(&event);
  if (error == cudaSuccess) *timestamp = new TimestampEvent{event};
  return Forget(error);
}
void FreeTimestamp(Timestamp timestamp) {
  if (timestamp == nullptr) return;
  cudaEventDestroy(timestamp->event);
  delete timestamp;
}
LaunchError RecordTimestamp(Timestamp timestamp, Stream stream) {
  return Forget(cudaEventRecord(timestamp->event, stream));
}
LaunchError Elapsed(Timestamp begin, Timestamp end, bool* is_passed, float* milliseconds) {
  const cudaError_t error = Forget(cudaEventQuery(end->event));
  *is_passed = error == cudaSuccess;
  if (error != cudaSuccess) return error == cudaErrorNotReady ? cudaSuccess : error;
  return Forget(cudaEventElapsedTime(milliseconds, begin->event, end->event));
}

const char* ErrorName(LaunchError error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}

}  // namespace m1::cuda
