// The order in which waiting requests are started: by arrival.
//
// A request that comes back (its worker dropped it or died) takes the place its arrival gives it,
// which is ahead of all that were never started. Only new requests are refused when the queue is
// full: what was accepted once is never lost to a full queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>

namespace m1 {

// Holds arrival numbers. Not thread-safe.
class RequestQueue {
 public:
  explicit RequestQueue(size_t capacity) : capacity_(capacity) {}

  // A new request; false when the queue is full. Numbers grow from call to call.
  bool TryPush(int64_t arrival_order) {
    if (waiting_.size() >= capacity_) return false;
    waiting_.insert(arrival_order);
    return true;
  }
  // A request that was taken before.
  void Return(int64_t arrival_order) { waiting_.insert(arrival_order); }
  // False when it is not there.
  bool Remove(int64_t arrival_order) { return waiting_.erase(arrival_order) > 0; }

  // In the order to be started.
  const std::set<int64_t>& waiting() const { return waiting_; }
  size_t size() const { return waiting_.size(); }
  size_t capacity() const { return capacity_; }

 private:
  const size_t capacity_;
  std::set<int64_t> waiting_;
};

}  // namespace m1
