// Ctrl-C without ending the process: SIGINT is blocked, and a thread calls `on_interrupt` for each one.
#pragma once

#include <functional>
#include <thread>

namespace m1 {

// Call before any other thread is made: threads inherit the blocked signal.
void BlockInterrupt();

class InterruptWatcher {
 public:
  // After BlockInterrupt. `on_interrupt` is called on the watcher's thread, until destruction.
  explicit InterruptWatcher(std::function<void()> on_interrupt);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

 private:
  void Watch(const std::function<void()>& on_interrupt) const;

  int signal_fd_;
  int stop_fd_;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace m1
