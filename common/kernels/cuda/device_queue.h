// A backend's way to its stream. Launches, and the small arrays of the host that they read, are
// gathered until somebody waits or asks (Submit): then the arrays go up as one copy and the
// launches run behind it, as a graph where they are the same as before. Scratch of one operation is
// here, too. Memory grows to what the largest step wants. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda/device_errors.h"
#include "common/kernels/cuda/graph_cache.h"
#include "common/kernels/cuda/launch.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

class DeviceQueue {
 public:
  static constexpr size_t kAlignment = 256;
  static constexpr size_t Padded(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // Both are borrowed. Nothing is allocated before the first Put.
  DeviceQueue(Stream stream, DeviceErrors* errors, size_t max_graphs)
      : stream_(stream), errors_(errors), graphs_(max_graphs) {}
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  // Where operations launch.
  LaunchTarget target() { return &gathered_; }
  // For its other calls, which see what was gathered only after Submit.
  Stream stream() const { return stream_; }

  // Hands what was gathered to the stream.
  absl::Status Submit();
  // Submit, then the copy, which is done when these return, as is all before it.
  absl::Status CopyToDevice(void* device, const void* host, size_t bytes);
  absl::Status CopyToHost(void* host, const void* device, size_t bytes);

  // Frees memory of the device, which what was gathered may name.
  void Free(void* device);

  // The next Puts, of so many bytes of Padded arrays together, do not overwrite one another.
  absl::Status Reserve(size_t bytes);

  // The arrays in the device's memory, for operations enqueued before the next call (or the next
  // Reserve); the host's may change at once.
  template <typename... T>
  absl::StatusOr<std::tuple<const T*...>> Put(std::span<const T>... arrays) {
    M1_RETURN_IF_ERROR(Reserve((Padded(arrays.size_bytes()) + ...)));
    // In the order of the arguments: braces say so.
    return std::tuple<const T*...>{Write(arrays)...};
  }

  // For operations enqueued before the next call.
  absl::StatusOr<void*> Scratch(size_t bytes);

 private:
  template <typename T>
  const T* Write(std::span<const T> array) {
    if (!array.empty()) std::memcpy(pinned_ + used_, array.data(), array.size_bytes());
    const auto* data = reinterpret_cast<const T*>(device_ + used_);
    used_ += Padded(array.size_bytes());
    return data;
  }

  // After a call that waited for the stream: arrays may be written over.
  absl::Status Drained(LaunchError error, absl::string_view what);
  absl::Status GrowArrays(size_t bytes);
  void FreeArrays();

  const Stream stream_;
  DeviceErrors* const errors_;
  GraphCache graphs_;
  LaunchList gathered_;
  std::byte* pinned_ = nullptr;  // arrays, and the same in the device's memory
  std::byte* device_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;  // since the stream had read everything
  size_t sent_ = 0;  // of them
  void* scratch_ = nullptr;
  size_t scratch_capacity_ = 0;
};

}  // namespace m1::cuda
