// What the attention worker knows at a scrape: memory, sequences, expert workers.
#pragma once

#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"

#include "attention_worker/engine.h"
#include "common/base/mutex.h"
#include "common/exchange/exchange.h"
#include "common/metrics/registry.h"

namespace m1 {

// From each dispatch to its answer. Thread-safe.
class ExchangeLatency final : public ExchangeObserver {
 public:
  explicit ExchangeLatency(MetricsRegistry* registry) : registry_(registry) {}

  void OnAnswer(const std::string& address, absl::Duration latency) override;

 private:
  prometheus::Histogram& Of(const std::string& address) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MetricsRegistry* const registry_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, prometheus::Histogram*> histograms_ ABSL_GUARDED_BY(mutex_);
};

// Engine and exchange must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeAttentionWorker(MetricsRegistry* registry,
                                                      const StepLimits& limits,
                                                      const Engine* engine,
                                                      const ExpertExchange* exchange);

}  // namespace m1
