// What the router knows at a scrape: its queue and its workers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics/registry.h"
#include "router/dispatcher.h"
#include "router/grpc_worker_fleet.h"

namespace m1 {

struct RouterView {
  std::vector<std::string> addresses;  // by worker index; empty where no worker is now
  RouterSnapshot snapshot;             // of these workers and any that came since
};

// `look` is called once a scrape, and when somebody asks why the router is not ready.
std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             std::function<RouterView()> look);

// Dispatcher and fleet must outlive what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeRouter(MetricsRegistry* registry,
                                             const Dispatcher* dispatcher,
                                             const WorkerFleet* fleet);

}  // namespace m1
