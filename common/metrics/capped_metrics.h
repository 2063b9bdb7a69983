// Metrics of one name by a label whose values come from outside: the first so many values have a
// metric of their own, all others share that of "other".
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

#include "common/base/mutex.h"
#include "common/metrics/registry.h"

namespace m1 {

inline constexpr size_t kMaxLabelValues = 64;

// `Metric`: prometheus::Counter, Gauge or Histogram. Thread-safe.
template <typename Metric>
class CappedMetrics {
 public:
  // `add` gives the metric that has these labels, as MetricsRegistry does.
  using Add = std::function<Metric&(const prometheus::Labels& labels)>;

  CappedMetrics(std::string label, Add add, size_t max_values = kMaxLabelValues)
      : label_(std::move(label)), add_(std::move(add)), max_values_(max_values) {}

  // The metric of this value of the label.
  Metric& Of(absl::string_view value) {
    MutexLock lock(&mutex_);
    if (const auto found = metrics_.find(value); found != metrics_.end()) return *found->second;
    if (metrics_.size() >= max_values_) return add_({{label_, "other"}});
    Metric& metric = add_({{label_, LabelValue(value)}});
    metrics_.emplace(value, &metric);
    return metric;
  }

 private:
  const std::string label_;
  const Add add_;
  const size_t max_values_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Metric*> metrics_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
