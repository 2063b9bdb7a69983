// Numbered places (KV blocks, state slots) handed out as leases. Leases may share places; the last
// one to be destroyed gives a place back.
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
  // Holds the first `count` places of `other`, of the same pool, too. Only of an empty lease.
  void Share(const Lease& other, int64_t count);
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
    num_holders_.resize(static_cast<size_t>(capacity), 0);
    for (int64_t id = capacity - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
  }
  ~LeasePool() { M1_CHECK_MSG(num_free() == capacity_, "a lease outlives its pool"); }
  LeasePool(const LeasePool&) = delete;
  LeasePool& operator=(const LeasePool&) = delete;

  int64_t capacity() const { return capacity_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  // Leases that hold a place.
  int32_t num_holders(int32_t id) const { return num_holders_[static_cast<size_t>(id)]; }

 private:
  friend class Lease;
  const int64_t capacity_;
  std::vector<int32_t> free_;  // the next one to hand out is last
  std::vector<int32_t> num_holders_;
};

inline Lease::~Lease() {
  if (pool_ == nullptr) return;
  for (auto id = ids_.rbegin(); id != ids_.rend(); ++id) {
    if (--pool_->num_holders_[static_cast<size_t>(*id)] == 0) pool_->free_.push_back(*id);
  }
}

inline bool Lease::GrowTo(int64_t count) {
  const int64_t more = count - size();
  if (more <= 0) return true;
  if (pool_ == nullptr || pool_->num_free() < more) return false;
  for (int64_t i = 0; i < more; ++i) {
    ids_.push_back(pool_->free_.back());
    pool_->free_.pop_back();
    pool_->num_holders_[static_cast<size_t>(ids_.back())] = 1;
  }
  return true;
}

inline void Lease::Share(const Lease& other, int64_t count) {
  M1_CHECK(ids_.empty() && pool_ == other.pool_ && count <= other.size());
  ids_.assign(other.ids_.begin(), other.ids_.begin() + count);
  for (const int32_t id : ids_) ++pool_->num_holders_[static_cast<size_t>(id)];
}

}  // namespace m1
