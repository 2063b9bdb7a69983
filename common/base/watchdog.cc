#include "common/base/watchdog.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace m1 {

absl::Duration Heartbeat::Silence() const {
  const int64_t beat_ns = beat_ns_.load(std::memory_order_relaxed);
  if (beat_ns == kRests) return absl::ZeroDuration();
  return std::max(clock_->Now() - absl::FromUnixNanos(beat_ns), absl::ZeroDuration());
}

Heartbeat* Watchdog::Add(const std::string& loop) {
  MutexLock lock(&mutex_);
  heartbeats_.push_back(std::make_unique<Heartbeat>(loop, clock_));
  return heartbeats_.back().get();
}

std::string Watchdog::WhyStuck() const {
  if (limit_ == absl::ZeroDuration()) return "";
  MutexLock lock(&mutex_);
  for (const auto& heartbeat : heartbeats_) {
    const absl::Duration silence = heartbeat->Silence();
    if (silence <= limit_) continue;
    return absl::StrCat("the ", heartbeat->loop(), " has made no progress for ",
                        absl::FormatDuration(absl::Trunc(silence, absl::Seconds(1))), ", over ",
                        absl::FormatDuration(limit_));
  }
  return "";
}

}  // namespace m1
