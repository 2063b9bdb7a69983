// Where the time of steps goes, taken from the spans that the engine traces anyway.
#pragma once

#include "common/base/trace.h"
#include "common/metrics/registry.h"

namespace m1 {

// For one thread, the engine's. Counters change once a step.
class StepMetrics final : public TraceSink {
 public:
  // Spans go on to `next`, which may be null.
  StepMetrics(MetricsRegistry* registry, TraceSink* next);

  void Add(const TraceSpan& span) override;

 private:
  void FinishStep(const TraceSpan& step);

  TraceSink* const next_;
  prometheus::Histogram& step_seconds_;
  prometheus::Histogram& step_rows_;
  prometheus::Counter& attention_;
  prometheus::Counter& gate_;
  prometheus::Counter& exchange_wait_;
  prometheus::Counter& head_;
  prometheus::Counter& sampling_;
  prometheus::Counter& other_;

  // Seconds in the step that runs. A gate's span lies in that of its attention, a sampling's in
  // that of the head.
  struct Phases {
    double attention = 0;
    double gate = 0;
    double wait = 0;
    double head = 0;
    double sampling = 0;
  };
  Phases phases_;
};

}  // namespace m1
