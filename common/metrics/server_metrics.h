// What every server process shows of itself over HTTP:
//   /metrics   the registry, in Prometheus's text format
//   /healthz   200 while the process lives and its loops make progress, else 503 and which does not
//   /startupz  200 once it listens with its model loaded, else 503 and why
//   /readyz    200 while it serves, else 503 and why, in one line
// Made before the model is loaded, so that probes tell a slow start from a dead process.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/clock.h"
#include "common/base/watchdog.h"
#include "common/metrics/registry.h"

class CivetServer;

namespace m1 {

struct ServerMetricsOptions {
  std::string component;  // "router", "attention-worker", "expert-worker"
  std::string address;    // IP address to listen on
  int port = 0;           // 0: no HTTP
  // For so long a loop may be without progress; zero: forever.
  absl::Duration liveness_timeout = absl::Minutes(5);
};

// Of --metrics_address and --metrics_port; an empty metrics address is `address`, or loopback where
// that is a unix socket or a name. Errors: InvalidArgument naming the flag.
absl::StatusOr<ServerMetricsOptions> ReadMetricsFlags(const std::string& component,
                                                      const std::string& metrics_address,
                                                      int metrics_port, const std::string& address);

// Thread-safe.
class ServerMetrics {
 public:
  // Errors: InvalidArgument naming --metrics_port when listening fails.
  static absl::StatusOr<std::unique_ptr<ServerMetrics>> Start(const ServerMetricsOptions& options);
  ~ServerMetrics();

  MetricsRegistry* registry() { return &registry_; }
  // Knows --liveness_timeout; its heartbeats are what /healthz looks at.
  Watchdog* watchdog() { return &watchdog_; }
  // Call first when the server listens: that is the end of /startupz. Not ready before.
  void SetReady(bool ready);
  // Not while a loop is stuck.
  bool ready() const { return ready_ && watchdog_.WhyStuck().empty(); }
  // For people; see also ScrapedMetrics::WhyNotReady.
  std::string WhyNotReady() const;
  // m1_model_info; once.
  void SetModel(const prometheus::Labels& labels);

 private:
  explicit ServerMetrics(const ServerMetricsOptions& options);
  absl::Status Listen(const std::string& address, int port);

  class Page;

  SteadyClock clock_;
  Watchdog watchdog_;
  MetricsRegistry registry_;
  ScrapedMetrics process_{&registry_};
  prometheus::Gauge& startup_seconds_;
  std::atomic<bool> ready_ = false;
  std::atomic<bool> is_listening_ = false;
  std::atomic<bool> was_ready_ = false;
  std::string address_;  // of server_, without brackets
  int port_ = 0;
  std::vector<std::unique_ptr<Page>> pages_;
  std::unique_ptr<CivetServer> server_;
};

}  // namespace m1
