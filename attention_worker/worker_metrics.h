// What the attention worker knows at a scrape: memory, sequences, expert workers.
#pragma once

#include <memory>
#include <string>

#include "attention_worker/engine.h"
#include "common/exchange/exchange.h"
#include "common/metrics/capped_metrics.h"
#include "common/metrics/registry.h"

namespace m1 {

// From each dispatch to its answer. Thread-safe.
class ExchangeLatency final : public ExchangeObserver {
 public:
  explicit ExchangeLatency(MetricsRegistry* registry);

  void OnAnswer(const std::string& address, absl::Duration latency) override;

 private:
  CappedMetrics<prometheus::Histogram> histograms_;
};

// Engine and exchange must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeAttentionWorker(MetricsRegistry* registry,
                                                      const StepLimits& limits,
                                                      const Engine* engine,
                                                      const ExpertExchange* exchange);

}  // namespace m1
