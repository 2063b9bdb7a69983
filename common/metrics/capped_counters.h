// Counters of one name by a label whose values come from outside: the first so many values have a
// counter of their own, all others share that of "other".
#pragma once

#include <cstddef>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

#include "common/base/mutex.h"
#include "common/metrics/registry.h"

namespace m1 {

inline constexpr size_t kMaxLabelValues = 64;

// Thread-safe.
class CappedCounters {
 public:
  CappedCounters(MetricsRegistry* registry, std::string name, std::string help, std::string label,
                 size_t max_values = kMaxLabelValues);

  // The counter of this value of the label.
  prometheus::Counter& Of(absl::string_view value);

 private:
  MetricsRegistry* const registry_;
  const std::string name_;
  const std::string help_;
  const std::string label_;
  const size_t max_values_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, prometheus::Counter*> counters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
