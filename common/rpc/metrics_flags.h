// Flags that every server has: --metrics_port, --metrics_address, --liveness_timeout.
#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "common/metrics/server_metrics.h"
#include "common/security/security.h"

namespace m1 {

// Of a server with this security. Errors: InvalidArgument naming the flag, also for an address that
// other hosts reach without TLS and without --insecure.
absl::StatusOr<ServerMetricsOptions> MetricsFromFlags(const std::string& component,
                                                      const SecurityOptions& security);

}  // namespace m1
