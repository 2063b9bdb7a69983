// Metrics by a label whose values come from outside: the first so many values have series of their
// own, all others share that of "other".
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/metrics/registry.h"

namespace m1 {

inline constexpr size_t kMaxLabelValues = 64;
inline constexpr char kOtherValue[] = "other";

struct CappedLabel {
  std::string name;
  size_t max_values = kMaxLabelValues;
  // When a new value comes, the series of those that were not used for so long go: peers behind a
  // name of the DNS come and go with new addresses.
  absl::Duration max_idle = absl::Hours(1);
};

// `Metric`: prometheus::Counter or Histogram. Thread-safe.
template <typename Metric>
class CappedMetrics {
 public:
  // `family` and `clock` outlive it; nobody else adds to the family. `bounds`: of histograms.
  CappedMetrics(prometheus::Family<Metric>* family, CappedLabel label, const Clock* clock,
                std::vector<double> bounds = {})
      : family_(family), label_(std::move(label)), clock_(clock), bounds_(std::move(bounds)) {}

  // Calls `count` with the metric of this value, which is valid no longer than that.
  template <typename Count>
  void With(absl::string_view value, const Count& count) {
    const std::string label = LabelValue(value);
    const absl::Time now = clock_->Now();
    MutexLock lock(&mutex_);
    auto found = series_.find(label);
    if (found == series_.end()) {
      ForgetIdle(now);
      if (series_.size() >= label_.max_values || label == kOtherValue)
        return count(Add(kOtherValue));
      found = series_.emplace(label, Series{&Add(label), now}).first;
    }
    found->second.last_use = now;
    count(*found->second.metric);
  }

 private:
  struct Series {
    Metric* metric;
    absl::Time last_use;
  };

  Metric& Add(const std::string& value) {
    const prometheus::Labels labels = {{label_.name, value}};
    if constexpr (std::is_same_v<Metric, prometheus::Histogram>) {
      return family_->Add(labels, bounds_);
    } else {
      return family_->Add(labels);
    }
  }

  void ForgetIdle(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    absl::erase_if(series_, [&](const auto& one) {
      if (now - one.second.last_use < label_.max_idle) return false;
      family_->Remove(one.second.metric);
      return true;
    });
  }

  prometheus::Family<Metric>* const family_;
  const CappedLabel label_;
  const Clock* const clock_;
  const std::vector<double> bounds_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, Series> series_ ABSL_GUARDED_BY(mutex_);
};

// What several values become in one sample.
enum class Fold { kSum, kMin, kMax };

struct LabelledValue {
  std::string label;  // as it comes from outside
  double value = 0;
};

// A sample for each of the first `max_values` labels, and one of "other" for what is beyond. Equal
// labels are folded, too: no series is told twice.
std::vector<MetricSample> CapSamples(const std::string& label_name,
                                     const std::vector<LabelledValue>& values, Fold fold,
                                     size_t max_values = kMaxLabelValues);

}  // namespace m1
