#include "router/retry_advice.h"

#include <algorithm>

namespace m1 {
namespace {

constexpr size_t kMaxDepartures = 64;
// Until a rate was measured.
constexpr absl::Duration kFirstInterval = absl::Milliseconds(100);
constexpr absl::Duration kShortest = absl::Milliseconds(50);
constexpr absl::Duration kLongest = absl::Minutes(15);

}  // namespace

// Promises run a quarter of the queue behind what was measured: departures come in bursts and new
// clients take places, and a queue that is three quarters full keeps the workers as busy.
RetryAdvice::RetryAdvice(size_t capacity) : margin_places_(static_cast<double>(capacity) / 4) {}

void RetryAdvice::OnDeparture(absl::Time now) {
  departures_.push_back(now);
  if (departures_.size() > kMaxDepartures) departures_.pop_front();
}

absl::Duration RetryAdvice::Interval(absl::Time now) const {
  if (departures_.size() < 2) return kFirstInterval;
  // A queue that has stopped since shows as a rate that falls.
  const absl::Duration measured = departures_.back() - departures_.front();
  const double num_intervals = static_cast<double>(departures_.size()) - 1;
  return std::max(measured / num_intervals, (now - departures_.back()) / 4);
}

absl::Duration RetryAdvice::Advise(absl::Time now) {
  const absl::Duration interval = Interval(now);
  const absl::Time first = now + interval * margin_places_;
  promised_until_ = std::max(promised_until_, first) + interval;
  // Promises from slower times are not kept for ever.
  promised_until_ = std::min(promised_until_, now + kLongest);
  return std::clamp(promised_until_ - now, kShortest, kLongest);
}

}  // namespace m1
