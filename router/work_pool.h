// A few threads for work too long for gRPC's own: the encoding of long prompts.
#pragma once

#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "common/base/bounded_queue.h"

namespace m1 {

// Thread-safe. Tasks begin in the order of submission.
class WorkPool {
 public:
  WorkPool(int num_threads, size_t queue_size) : tasks_(queue_size) {
    for (int i = 0; i < num_threads; ++i) {
      threads_.emplace_back([this] {
        while (std::optional<std::function<void()>> task = tasks_.Pop()) (*task)();
      });
    }
  }
  ~WorkPool() { Stop(); }

  // False when too many tasks wait.
  bool TrySubmit(std::function<void()> task) { return tasks_.TryPush(std::move(task)); }

  // Returns when all that was submitted is done.
  void Stop() {
    tasks_.Close();
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  BoundedQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace m1
