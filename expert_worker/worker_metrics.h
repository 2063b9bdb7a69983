// What an expert worker counts: runs from the spans that its engine traces anyway, rows from what
// its executor counts.
#pragma once

#include <functional>
#include <memory>

#include "common/base/trace.h"
#include "common/metrics/registry.h"
#include "expert_worker/engine.h"
#include "expert_worker/expert_ffn.h"

namespace m1 {

// For one thread, the engine's.
class RunMetrics final : public TraceSink {
 public:
  // Spans go on to `next`, which may be null.
  RunMetrics(MetricsRegistry* registry, TraceSink* next);

  void Add(const TraceSpan& span) override;

 private:
  TraceSink* const next_;
  prometheus::Histogram& batch_rows_;
  prometheus::Histogram& batch_seconds_;
  prometheus::Histogram& gather_seconds_;
};

struct ExpertWorkerFigures {
  const Engine* engine = nullptr;
  const ExpertFfn* executor = nullptr;
  int64_t weight_bytes = 0;
  std::function<int64_t()> num_peers;  // attention workers that are connected
};

// What the figures name must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeExpertWorker(MetricsRegistry* registry,
                                                   const ExpertWorkerFigures& figures);

}  // namespace m1
