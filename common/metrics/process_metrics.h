// What the system says of this process, under the names that Prometheus's client libraries share.
#pragma once

#include "common/metrics/registry.h"

namespace m1 {

// Adds process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes,
// process_open_fds, process_max_fds and process_start_time_seconds.
void AddProcessMetrics(ScrapedMetrics* metrics);

}  // namespace m1
