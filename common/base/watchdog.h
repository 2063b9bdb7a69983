// Whether the loops of a process make progress, for probes that restart it when one does not.
//
//   Heartbeat* heartbeat = watchdog.Add("step loop");
//   while (true) {
//     heartbeat->Rest();
//     Job job = queue.Pop();
//     heartbeat->Beat();
//     Run(job);  // beats within, where it may take long
//   }
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/trace.h"

namespace m1 {

// Of one loop, which calls it; anybody may look. One store of a number each.
class Heartbeat {
 public:
  // `clock` outlives it.
  Heartbeat(std::string loop, const Clock* clock) : loop_(std::move(loop)), clock_(clock) {}

  // Progress. The loop has work from here on.
  void Beat() { beat_ns_.store(absl::ToUnixNanos(clock_->Now()), std::memory_order_relaxed); }
  // The loop waits for work from here on, for any time. So it does at first.
  void Rest() { beat_ns_.store(kRests, std::memory_order_relaxed); }

  const std::string& loop() const { return loop_; }
  // Since the last progress; zero for a loop that rests.
  absl::Duration Silence() const;

 private:
  static constexpr int64_t kRests = std::numeric_limits<int64_t>::min();

  const std::string loop_;
  const Clock* const clock_;
  std::atomic<int64_t> beat_ns_ = kRests;
};

// Thread-safe.
class Watchdog {
 public:
  // A loop with work makes progress at least every `limit`; zero: it is never asked. `clock`, which
  // should not jump (SteadyClock), outlives the watchdog.
  Watchdog(absl::Duration limit, const Clock* clock) : limit_(limit), clock_(clock) {}

  // Lives as long as the watchdog.
  Heartbeat* Add(const std::string& loop);
  // In one line, for people; empty while all loops make progress or rest.
  std::string WhyStuck() const;

 private:
  const absl::Duration limit_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Heartbeat>> heartbeats_ ABSL_GUARDED_BY(mutex_);
};

// Takes each span for progress of the loop that adds it.
class BeatingTrace final : public TraceSink {
 public:
  // Spans go on to `next`, which may be null.
  BeatingTrace(Heartbeat* heartbeat, TraceSink* next) : heartbeat_(heartbeat), next_(next) {}

  void Add(const TraceSpan& span) override {
    heartbeat_->Beat();
    if (next_ != nullptr) next_->Add(span);
  }

 private:
  Heartbeat* const heartbeat_;
  TraceSink* const next_;
};

}  // namespace m1
