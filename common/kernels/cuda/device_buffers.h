// Memory of the device that the backend needs beside the operands: small arrays of the host on
// their way to a kernel, and scratch of one operation. Both grow to what the largest step wants.
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/base/status_macros.h"
#include "common/kernels/cuda/device_errors.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

// The arrays of one operation travel as one copy.
class UploadRing {
 public:
  static constexpr size_t kAlignment = 256;
  static constexpr size_t Padded(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // Both are borrowed. Nothing is allocated before the first Put.
  UploadRing(Stream stream, DeviceErrors* errors) : stream_(stream), errors_(errors) {}
  ~UploadRing() { Free(); }
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  // The next Puts, of so many bytes of Padded arrays together, do not overwrite one another.
  absl::Status Reserve(size_t bytes);

  // The arrays in the device's memory, for operations enqueued before the next call (or the next
  // Reserve); the host's may change at once.
  template <typename... T>
  absl::StatusOr<std::tuple<const T*...>> Put(std::span<const T>... arrays) {
    M1_ASSIGN_OR_RETURN(const Place place, Take((Padded(arrays.size_bytes()) + ...)));
    size_t offset = 0;
    // In the order of the arguments: braces say so.
    const std::tuple<const T*...> data{Write(place, arrays, &offset)...};
    M1_RETURN_IF_ERROR(
        errors_->ToStatus(CopyFromPinned(place.device, place.pinned, offset, stream_), "upload"));
    return data;
  }

 private:
  struct Place {
    unsigned char* pinned;
    unsigned char* device;
  };

  template <typename T>
  static const T* Write(const Place& place, std::span<const T> array, size_t* offset) {
    if (!array.empty()) std::memcpy(place.pinned + *offset, array.data(), array.size_bytes());
    const auto* data = reinterpret_cast<const T*>(place.device + *offset);
    *offset += Padded(array.size_bytes());
    return data;
  }

  absl::StatusOr<Place> Take(size_t bytes);
  absl::Status Grow(size_t bytes);
  void Free();

  const Stream stream_;
  DeviceErrors* const errors_;
  void* pinned_ = nullptr;
  void* device_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;  // since the stream had read everything
};

class Scratch {
 public:
  // Both are borrowed.
  Scratch(Stream stream, DeviceErrors* errors) : stream_(stream), errors_(errors) {}
  ~Scratch() { FreeDevice(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // For operations enqueued before the next call.
  absl::StatusOr<void*> Reserve(size_t bytes);

 private:
  const Stream stream_;
  DeviceErrors* const errors_;
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace m1::cuda
