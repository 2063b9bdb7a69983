// What other threads and processes bring about, and what they must not leave behind.
#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace m1 {

// Polls until `condition` holds; false after a minute: machines that run tests stall.
template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// Descriptors of this process.
inline int64_t NumOpenFds() {
  int64_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

}  // namespace m1
