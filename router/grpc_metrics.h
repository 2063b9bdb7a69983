// What the router counts about requests; see deploy/monitoring.md.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/metrics/capped_metrics.h"
#include "common/metrics/registry.h"
#include "m1/v1/inference.pb.h"

namespace m1 {

// Thread-safe.
class RouterMetrics {
 public:
  explicit RouterMetrics(MetricsRegistry* registry);

  // A sample was given to a worker for the first time, so long after its request came.
  void OnStarted(absl::Duration queued) { Observe(queue_, queued); }
  void OnFirstToken(absl::Duration since_arrival) { Observe(first_token_, since_arrival); }
  // `count` tokens came so long after those before them.
  void OnMoreTokens(absl::Duration since_last, int64_t count);
  // A sample has ended.
  void OnFinish(const v1::Finish& finish);
  // A call of Generate has ended, with CANCELLED if its client is gone, whoever noticed that first.
  // `reason`: of its last sample, or unspecified.
  void OnCallEnd(absl::string_view client, const absl::Status& status, v1::FinishReason reason,
                 absl::Duration since_arrival);
  // A call of Generate ends with `status` before anything was computed for it.
  void OnRefused(const absl::Status& status);

 private:
  static void Observe(prometheus::Histogram& histogram, absl::Duration value) {
    histogram.Observe(absl::ToDoubleSeconds(value));
  }

  MetricsRegistry* const registry_;
  RealClock clock_;
  CappedMetrics<prometheus::Counter> clients_;
  prometheus::Counter& cancelled_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& request_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_tokens_;
  prometheus::Counter& completion_tokens_;
  prometheus::Counter& reasoning_tokens_;
};

}  // namespace m1
