// When a refused client should come back: at the measured rate at which the queue empties, each
// refused client a place further on, so that they do not come back together.
#pragma once

#include <cstddef>
#include <deque>

#include "absl/time/time.h"

namespace m1 {

// Not thread-safe, no clock.
class RetryAdvice {
 public:
  // Of a queue with so many places.
  explicit RetryAdvice(size_t capacity);

  // A request left the queue.
  void OnDeparture(absl::Time now);
  // A request is refused; when it should come again.
  absl::Duration Advise(absl::Time now);

 private:
  // Time between two departures.
  absl::Duration Interval(absl::Time now) const;

  const double margin_places_;
  std::deque<absl::Time> departures_;  // the newest few
  absl::Time promised_until_ = absl::InfinitePast();
};

}  // namespace m1
