// Numbered places (KV blocks, state slots) handed out as leases: destroying a lease gives its
// places back.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace m1 {

class LeasePool;

// Move-only. The pool must outlive it.
class Lease {
 public:
  Lease() = default;
  explicit Lease(LeasePool* pool) : pool_(pool) {}
  Lease(Lease&& other) noexcept { swap(other); }
  Lease& operator=(Lease&& other) noexcept {
    Lease taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~Lease();

  // Grows to `count` places, or stays as it is and returns false when the pool has too few.
  bool GrowTo(int64_t count);
  std::span<const int32_t> ids() const { return ids_; }
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }

 private:
  void swap(Lease& other) {
    std::swap(pool_, other.pool_);
    std::swap(ids_, other.ids_);
  }
  LeasePool* pool_ = nullptr;
  std::vector<int32_t> ids_;
};

// Places 0 .. capacity - 1, the lowest free ones first. Thread-compatible.
class LeasePool {
 public:
  explicit LeasePool(int64_t capacity) : capacity_(capacity) {
    M1_CHECK(capacity >= 0 && capacity <= INT32_MAX);
    for (int64_t id = capacity - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
  }
  ~LeasePool() { M1_CHECK_MSG(num_free() == capacity_, "a lease outlives its pool"); }
  LeasePool(const LeasePool&) = delete;
  LeasePool& operator=(const LeasePool&) = delete;

  int64_t capacity() const { return capacity_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

 private:
  friend class Lease;
  const int64_t capacity_;
  std::vector<int32_t> free_;  // the next one to hand out is last
};

inline Lease::~Lease() {
  if (pool_ == nullptr) return;
  for (auto id = ids_.rbegin(); id != ids_.rend(); ++id) pool_->free_.push_back(*id);
}

inline bool Lease::GrowTo(int64_t count) {
  const int64_t more = count - size();
  if (more <= 0) return true;
  if (pool_ == nullptr || pool_->num_free() < more) return false;
  for (int64_t i = 0; i < more; ++i) {
    ids_.push_back(pool_->free_.back());
    pool_->free_.pop_back();
  }
  return true;
}

}  // namespace m1
