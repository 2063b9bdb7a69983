#include "tests/support/simulated_pinned.h"

#include <iterator>

namespace m1::cuda {

bool PinnedRanges::Overlaps(const std::byte* begin, size_t bytes) const {
  const auto next = ranges_.lower_bound(begin + bytes);  // the first that begins after it
  if (next == ranges_.begin()) return false;
  const auto& [start, size] = *std::prev(next);
  return start + size > begin;
}

bool PinnedRanges::Contains(const std::byte* begin, size_t bytes) const {
  const auto next = ranges_.upper_bound(begin);
  if (next == ranges_.begin()) return false;
  const auto& [start, size] = *std::prev(next);
  return begin + bytes <= start + size;
}

bool PinnedRanges::Add(void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto* const begin = static_cast<const std::byte*>(data);
  if (num_bytes_ + static_cast<int64_t>(bytes) > limit_ || Overlaps(begin, bytes)) return false;
  ranges_[begin] = bytes;
  num_bytes_ += static_cast<int64_t>(bytes);
  return true;
}

bool PinnedRanges::Remove(void* data) {
  const std::lock_guard lock(mutex_);
  const auto range = ranges_.find(static_cast<const std::byte*>(data));
  if (range == ranges_.end()) return false;
  num_bytes_ -= static_cast<int64_t>(range->second);
  ranges_.erase(range);
  return true;
}

void PinnedRanges::CountCopy(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!Contains(static_cast<const std::byte*>(data), bytes)) ++num_pageable_copies_;
}

void PinnedRanges::set_limit(int64_t limit_bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = limit_bytes;
}

int64_t PinnedRanges::num_bytes() const {
  const std::lock_guard lock(mutex_);
  return num_bytes_;
}

int64_t PinnedRanges::num_pageable_copies() const {
  const std::lock_guard lock(mutex_);
  return num_pageable_copies_;
}

}  // namespace m1::cuda
