// Names in /proc/PID/task/TID/comm, for top, debuggers and people.
#pragma once

#include <pthread.h>

namespace m1 {

// Of the calling thread; at most 15 bytes.
inline void NameThread(const char* name) {
  static_cast<void>(pthread_setname_np(pthread_self(), name));
}

}  // namespace m1
