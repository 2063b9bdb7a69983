// When a process that died is started again: after min_delay, doubled for each death in a row up to
// max_delay; a process that ran for stable_after starts afresh. Not thread-safe.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace m1 {

struct RestartPolicyOptions {
  absl::Duration min_delay = absl::Milliseconds(500);
  absl::Duration max_delay = absl::Seconds(10);
  absl::Duration stable_after = absl::Seconds(30);
};

class RestartPolicy {
 public:
  explicit RestartPolicy(const RestartPolicyOptions& options = {}) : options_(options) {}

  // How long to wait before the next start of a process that ran for `lifetime`.
  absl::Duration DelayAfterDeath(absl::Duration lifetime) {
    if (lifetime >= options_.stable_after) next_delay_ = absl::ZeroDuration();
    const absl::Duration delay = std::max(next_delay_, options_.min_delay);
    next_delay_ = std::min(2 * delay, options_.max_delay);
    return delay;
  }

 private:
  RestartPolicyOptions options_;
  absl::Duration next_delay_ = absl::ZeroDuration();
};

}  // namespace m1
