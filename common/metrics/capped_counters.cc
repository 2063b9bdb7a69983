#include "common/metrics/capped_counters.h"

#include <utility>

namespace m1 {

CappedCounters::CappedCounters(MetricsRegistry* registry, std::string name, std::string help,
                               std::string label, size_t max_values)
    : registry_(registry),
      name_(std::move(name)),
      help_(std::move(help)),
      label_(std::move(label)),
      max_values_(max_values) {}

prometheus::Counter& CappedCounters::Of(absl::string_view value) {
  const std::string wanted = LabelValue(value);
  MutexLock lock(&mutex_);
  if (const auto found = counters_.find(wanted); found != counters_.end()) return *found->second;
  if (counters_.size() >= max_values_) {
    return registry_->AddCounter(name_, help_, {{label_, "other"}});
  }
  prometheus::Counter& counter = registry_->AddCounter(name_, help_, {{label_, wanted}});
  counters_.emplace(wanted, &counter);
  return counter;
}

}  // namespace m1
