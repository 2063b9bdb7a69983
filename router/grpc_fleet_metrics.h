// What the router knows at a scrape: its queue and its workers.
#pragma once

#include <memory>

#include "common/metrics/registry.h"
#include "router/dispatcher.h"
#include "router/grpc_worker_fleet.h"

namespace m1 {

// Dispatcher and fleet must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             const Dispatcher* dispatcher,
                                             const WorkerFleet* fleet);

}  // namespace m1
