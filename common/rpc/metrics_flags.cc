#include "common/rpc/metrics_flags.h"

#include <cstdint>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "common/base/status_macros.h"
#include "common/security/listen_address.h"

ABSL_FLAG(int32_t, metrics_port, 0, "Port of HTTP /metrics, /healthz and /readyz; 0: none");
ABSL_FLAG(std::string, metrics_address, "",
          "IP address of --metrics_port; empty: that of --address, or loopback");
ABSL_FLAG(absl::Duration, liveness_timeout, absl::Minutes(5),
          "/healthz says 503 when a loop that has work made no progress for so long, 1s..24h; 0: "
          "never");

namespace m1 {
namespace {

absl::Status CheckLivenessTimeout(absl::Duration timeout) {
  if (timeout == absl::ZeroDuration() ||
      (timeout >= absl::Seconds(1) && timeout <= absl::Hours(24))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--liveness_timeout is ", absl::FormatDuration(timeout), ", wanted 1s..24h, or 0 for never"));
}

// The port is HTTP without TLS either way, and shows no secrets: see deploy/security.md.
absl::Status CheckReach(const std::string& address, const SecurityOptions& security) {
  if (!security.tls_cert.empty() || security.insecure || IsLocalAddress(address)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--metrics_address is ", address,
                   ", which other hosts reach: wanted --tls_cert, --tls_key and --tls_ca for the "
                   "rest, or --insecure to accept that nothing is encrypted and nobody is asked "
                   "who calls"));
}

}  // namespace

absl::StatusOr<ServerMetricsOptions> MetricsFromFlags(const std::string& component,
                                                      const SecurityOptions& security) {
  const absl::Duration liveness_timeout = absl::GetFlag(FLAGS_liveness_timeout);
  M1_RETURN_IF_ERROR(CheckLivenessTimeout(liveness_timeout));
  M1_ASSIGN_OR_RETURN(ServerMetricsOptions options,
                      ReadMetricsFlags(component, absl::GetFlag(FLAGS_metrics_address),
                                       absl::GetFlag(FLAGS_metrics_port), security.address));
  if (options.port != 0) M1_RETURN_IF_ERROR(CheckReach(options.address, security));
  options.liveness_timeout = liveness_timeout;
  return options;
}

}  // namespace m1
