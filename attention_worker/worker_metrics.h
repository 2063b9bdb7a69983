// What the attention worker knows at a scrape: memory, sequences, expert workers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention_worker/engine.h"
#include "common/base/clock.h"
#include "common/exchange/exchange.h"
#include "common/metrics/capped_metrics.h"
#include "common/metrics/registry.h"

namespace m1 {

// From each dispatch to its answer, by expert worker. Thread-safe.
class ExchangeLatency final : public ExchangeObserver {
 public:
  // `clock` outlives it.
  explicit ExchangeLatency(MetricsRegistry* registry, const Clock* clock = nullptr);

  void OnAnswer(const std::string& address, absl::Duration latency) override;

 private:
  RealClock real_clock_;
  CappedMetrics<prometheus::Histogram> histograms_;
};

// Adds what is known of the expert workers.
void AddExchange(ScrapedMetrics* metrics, const ExpertExchange* exchange);
// Why an attention worker in this state does not serve.
std::string WhyNotReady(bool is_draining, const std::vector<int32_t>& missing_experts);

// Engine and exchange must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeAttentionWorker(MetricsRegistry* registry,
                                                      const StepLimits& limits,
                                                      const Engine* engine,
                                                      const ExpertExchange* exchange);

}  // namespace m1
