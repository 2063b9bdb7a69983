// What every gRPC server of ours counts: the calls that it answered, by method and code, and those
// that it denied.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "common/metrics/registry.h"
#include "common/security/security.h"

namespace m1 {

// m1_rpc_total of the calls of a server with this interceptor, counted as they end. Methods are
// those of our services, "other" for any that nobody has; health and reflection are not counted,
// nor is what was denied. A call that ended before it had a status is CANCELLED. `registry`
// outlives the server's calls.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(
    MetricsRegistry* registry);

// Denied calls, certificates and their reloads. `security` outlives what is returned.
std::unique_ptr<ScrapedMetrics> ScrapeSecurity(MetricsRegistry* registry, const Security* security);

}  // namespace m1
