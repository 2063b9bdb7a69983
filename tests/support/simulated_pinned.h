// Which memory of the host's is pinned, for the simulated GPU. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace m1::cuda {

class PinnedRanges {
 public:
  // False when there are more bytes than `limit`, or some of them are pinned already.
  bool Add(void* data, size_t bytes);
  // False when nothing was added there.
  bool Remove(void* data);
  // One copy from or to this memory.
  void CountCopy(const void* data, size_t bytes);

  void set_limit(int64_t limit_bytes);
  int64_t num_bytes() const;
  int64_t num_pageable_copies() const;

 private:
  bool Overlaps(const std::byte* begin, size_t bytes) const;
  bool Contains(const std::byte* begin, size_t bytes) const;

  mutable std::mutex mutex_;
  std::map<const std::byte*, size_t> ranges_;
  int64_t limit_ = int64_t{1} << 40;
  int64_t num_bytes_ = 0;
  int64_t num_pageable_copies_ = 0;
};

}  // namespace m1::cuda
