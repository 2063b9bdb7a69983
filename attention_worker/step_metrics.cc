#include "attention_worker/step_metrics.h"

#include <algorithm>

#include "absl/time/time.h"

namespace m1 {
namespace {

prometheus::Counter& Phase(MetricsRegistry* registry, const char* phase) {
  return registry->AddCounter("m1_attention_step_phase_seconds_total",
                              "Time of steps by phase: attention (norms and projections with it), "
                              "gate, exchange_wait (for experts), head, sampling, other.",
                              {{"phase", phase}});
}

}  // namespace

StepMetrics::StepMetrics(MetricsRegistry* registry, TraceSink* next)
    : next_(next),
      step_seconds_(registry->AddHistogram("m1_attention_step_seconds", "Duration of a step.",
                                           SecondsBuckets())),
      step_rows_(registry->AddHistogram("m1_attention_step_rows",
                                        "Rows of a step: tokens computed by it.", RowsBuckets())),
      attention_(Phase(registry, "attention")),
      gate_(Phase(registry, "gate")),
      exchange_wait_(Phase(registry, "exchange_wait")),
      head_(Phase(registry, "head")),
      sampling_(Phase(registry, "sampling")),
      other_(Phase(registry, "other")) {}

void StepMetrics::Add(const TraceSpan& span) {
  const double seconds = absl::ToDoubleSeconds(span.end - span.begin);
  if (span.name == "attention") {
    phases_.attention += seconds;
  } else if (span.name == "gate") {
    phases_.gate += seconds;
  } else if (span.name == "wait") {
    phases_.wait += seconds;
  } else if (span.name == "head") {
    phases_.head += seconds;
  } else if (span.name == "sampling") {
    phases_.sampling += seconds;
  } else if (span.name == "step") {
    FinishStep(span);
  }
  if (next_ != nullptr) next_->Add(span);
}

void StepMetrics::FinishStep(const TraceSpan& step) {
  const double seconds = absl::ToDoubleSeconds(step.end - step.begin);
  const double told = phases_.attention + phases_.wait + phases_.head;
  // Clocks may step: no counter goes down.
  const auto add = [](prometheus::Counter& counter, double value) {
    counter.Increment(std::max(value, 0.0));
  };
  add(attention_, phases_.attention - phases_.gate);
  add(gate_, phases_.gate);
  add(exchange_wait_, phases_.wait);
  add(head_, phases_.head - phases_.sampling);
  add(sampling_, phases_.sampling);
  add(other_, seconds - told);
  phases_ = Phases();
  step_seconds_.Observe(seconds);
  step_rows_.Observe(static_cast<double>(step.rows));
}

}  // namespace m1
