#include "common/kernels/cuda/event_timer.h"

#include <utility>

namespace m1::cuda {

EventTimer::~EventTimer() {
  FreeTimestamp(begin_);
  for (const Interval& interval : waiting_) {
    FreeTimestamp(interval.begin);
    FreeTimestamp(interval.end);
  }
  for (const Timestamp timestamp : unused_) FreeTimestamp(timestamp);
}

void EventTimer::Begin() {
  Collect();
  if (begin_ != nullptr) unused_.push_back(std::exchange(begin_, nullptr));
  if (waiting_.size() < kMaxWaiting) begin_ = NewMark();
}

void EventTimer::End(Done done) {
  if (begin_ == nullptr) return;
  if (const Timestamp end = NewMark(); end != nullptr) {
    waiting_.push_back({std::exchange(begin_, nullptr), end, std::move(done)});
  }
  Collect();
}

void EventTimer::Collect() {
  while (!waiting_.empty()) {
    bool is_passed = false;
    float milliseconds = 0;
    const Interval& oldest = waiting_.front();
    if (Elapsed(oldest.begin, oldest.end, &is_passed, &milliseconds) != 0 || !is_passed) return;
    const Interval passed = std::move(waiting_.front());
    waiting_.pop_front();
    unused_.push_back(passed.begin);
    unused_.push_back(passed.end);
    passed.done(absl::Milliseconds(milliseconds));
  }
}

Timestamp EventTimer::NewMark() {
  Timestamp timestamp = nullptr;
  if (!unused_.empty()) {
    timestamp = unused_.back();
    unused_.pop_back();
  } else if (NewTimestamp(&timestamp) != 0) {
    return nullptr;
  }
  if (queue_->Submit().ok() && RecordTimestamp(timestamp, queue_->stream()) == 0) return timestamp;
  unused_.push_back(timestamp);
  return nullptr;
}

}  // namespace m1::cuda
