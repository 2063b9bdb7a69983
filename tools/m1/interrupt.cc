#include "tools/m1/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace m1 {

namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockInterrupt() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

InterruptWatcher::InterruptWatcher(std::function<void()> on_interrupt) {
  const sigset_t set = InterruptSet();
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this, callback = std::move(on_interrupt)] { Watch(callback); });
}

InterruptWatcher::~InterruptWatcher() {
  const uint64_t one = 1;
  if (write(stop_fd_, &one, sizeof(one)) == static_cast<ssize_t>(sizeof(one))) thread_.join();
  close(signal_fd_);
  close(stop_fd_);
}

void InterruptWatcher::Watch(const std::function<void()>& on_interrupt) const {
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) continue;
    if ((fds[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) on_interrupt();
  }
}

}  // namespace m1
