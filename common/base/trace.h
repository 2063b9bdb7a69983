// What happened when, for people who look into a step: spans of time on numbered tracks.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"

namespace m1 {

struct TraceSpan {
  absl::string_view name;  // a literal
  int32_t track = 0;
  absl::Time begin = {};
  absl::Time end = {};
  int32_t layer = -1;  // -1: of none
  int64_t rows = 0;
};

class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual void Add(const TraceSpan& span) = 0;
};

// A span from its construction to its destruction. Without a sink nothing, not even a look at the
// clock.
class ScopedSpan {
 public:
  ScopedSpan(TraceSink* sink, const TraceSpan& span) : sink_(sink), span_(span) {
    if (sink_ != nullptr) span_.begin = absl::Now();
  }
  ~ScopedSpan() {
    if (sink_ == nullptr) return;
    span_.end = absl::Now();
    sink_->Add(span_);
  }
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

 private:
  TraceSink* const sink_;
  TraceSpan span_;
};

// Writes Chrome's trace event format, which chrome://tracing and Perfetto show; times are of the
// system's clock, so that the files of several processes fit together. Spans beyond `max_spans` are
// dropped, with a line in the log. A file that was not closed is still readable. Thread-safe.
class TraceFile final : public TraceSink {
 public:
  // "%p" in the path stands for the process id. Errors: those of opening the file, naming the path.
  static absl::StatusOr<std::unique_ptr<TraceFile>> Create(const std::string& pattern,
                                                           absl::string_view process_name,
                                                           int64_t max_spans = 2'000'000);
  ~TraceFile() override;

  void Add(const TraceSpan& span) override;

 private:
  TraceFile(std::FILE* file, std::string path, int64_t max_spans);

  const std::string path_;
  const int64_t max_spans_;
  Mutex mutex_;
  std::FILE* const file_ ABSL_PT_GUARDED_BY(mutex_);
  int64_t num_spans_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace m1
