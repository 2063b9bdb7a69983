// Word of the experts within reach, from the exchange's threads to whoever answers for health.
#pragma once

#include <functional>

#include "common/base/mutex.h"

namespace m1 {

// Tells whoever wants to know when the experts within reach changed. Thread-safe.
class Readiness {
 public:
  void Set(std::function<void()> listener) {
    MutexLock lock(&mutex_);
    listener_ = std::move(listener);
  }
  void Notify() {
    MutexLock lock(&mutex_);
    if (listener_) listener_();
  }

 private:
  Mutex mutex_;
  std::function<void()> listener_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
