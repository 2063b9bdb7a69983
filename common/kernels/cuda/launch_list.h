// Launches that are to run together, each after the one before it, behind one copy to the device.
// What a list holds is what the launches are made of (kernel, grid, arguments by value), so that
// two lists that are equal do the same. Thread-compatible.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "common/kernels/cuda/portable.h"

struct CUstream_st;

namespace m1::cuda {

// From pinned memory; no bytes: none.
struct PinnedCopy {
  void* device = nullptr;
  const void* pinned = nullptr;
  size_t bytes = 0;

  bool operator==(const PinnedCopy&) const = default;
};

class LaunchList {
 public:
  struct Launch {
    const void* kernel;  // the function, as the runtime knows it
    LaunchGrid grid;
    size_t args;                                   // where they are among all arguments
    bool (*equal_args)(const void*, const void*);  // of their type
  };

  template <typename Args>
  void Add(const void* kernel, const LaunchGrid& grid, const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args> && alignof(Args) <= kAlignment);
    const size_t at = args_.size();
    args_.resize(at + (sizeof(Args) + kAlignment - 1) / kAlignment * kAlignment);
    std::memcpy(args_.data() + at, &args, sizeof(Args));
    launches_.push_back({kernel, grid, at, [](const void* a, const void* b) {
                           return *static_cast<const Args*>(a) == *static_cast<const Args*>(b);
                         }});
    Mix(reinterpret_cast<uintptr_t>(kernel));
    Mix(static_cast<uint64_t>(grid.blocks.x) << 32 ^ static_cast<uint64_t>(grid.blocks.y) << 16 ^
        static_cast<uint64_t>(grid.blocks.z));
    // Without padding, and no floats, of which equal ones may have other bits.
    if constexpr (std::has_unique_object_representations_v<Args>) MixBytes(&args, sizeof(Args));
  }
  void set_copy(const PinnedCopy& copy) { copy_ = copy; }
  void Clear();

  bool empty() const { return launches_.empty() && copy_.bytes == 0; }
  const PinnedCopy& copy() const { return copy_; }
  std::span<const Launch> launches() const { return launches_; }
  const void* args(const Launch& launch) const { return args_.data() + launch.args; }
  // Equal for equal lists, and hardly ever for others: those of other layers and shapes.
  uint64_t fingerprint() const { return fingerprint_; }

  bool operator==(const LaunchList& other) const;

 private:
  static constexpr size_t kAlignment = 16;
  // Of arguments: beyond are groups that no launch of few products has.
  static constexpr size_t kMixedBytes = 256;

  void Mix(uint64_t value) {
    fingerprint_ = (fingerprint_ ^ value) * 0x9E3779B97F4A7C15;
    fingerprint_ ^= fingerprint_ >> 29;
  }
  void MixBytes(const void* data, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    for (size_t at = 0; at + sizeof(uint64_t) <= std::min(bytes, kMixedBytes); at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, from + at, sizeof(word));
      Mix(word);
    }
  }

  PinnedCopy copy_;
  std::vector<Launch> launches_;
  std::vector<std::byte> args_;
  uint64_t fingerprint_ = 0;
};

// Where a launch goes: to a stream, or into a list.
class LaunchTarget {
 public:
  LaunchTarget(CUstream_st* stream) : stream_(stream) {}  // NOLINT(google-explicit-constructor)
  LaunchTarget(LaunchList* list) : list_(list) {}         // NOLINT(google-explicit-constructor)

  CUstream_st* stream() const { return stream_; }
  LaunchList* list() const { return list_; }  // null: to the stream

 private:
  CUstream_st* stream_ = nullptr;
  LaunchList* list_ = nullptr;
};

}  // namespace m1::cuda
