// m1 health: asks the metrics port of a server how it is. For probes of containers: HTTP there is
// plain whether or not the gRPC port wants TLS and a certificate.
#include <iostream>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "tools/m1/commands.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/http_probe.h"

namespace m1 {
namespace {

absl::StatusOr<std::string> PathOf(const std::string& service) {
  if (service == "readiness") return std::string("/readyz");
  if (service == "startup") return std::string("/startupz");
  if (service == "liveness") return std::string("/healthz");
  return absl::InvalidArgumentError(
      absl::StrCat("--service is \"", service, "\", wanted readiness, startup or liveness"));
}

// Unavailable: exit code 1.
absl::Status Health(const std::vector<std::string>& args) {
  std::string target_text = "127.0.0.1:9464";
  std::string service = "readiness";
  std::optional<absl::Duration> timeout;
  FlagSet set("health", "asks a server's --metrics_port. Exit code 0: yes; 1: no, or no answer.");
  set.String("target", &target_text, "HOST:PORT of --metrics_port (127.0.0.1:9464)");
  set.String("service", &service,
             "readiness (a request could be answered), startup (the model is loaded) or liveness "
             "(readiness)");
  set.Duration("timeout", &timeout, "for everything, until the answer is whole, 1ms..10m (5s)");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_ASSIGN_OR_RETURN(const std::string path, PathOf(service));
  absl::StatusOr<HttpTarget> target = ParseHttpTarget(target_text);
  if (!target.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--target ", target.status().message()));
  }
  const absl::Duration limit = timeout.value_or(absl::Seconds(5));
  if (limit < absl::Milliseconds(1) || limit > absl::Minutes(10)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--timeout is ", absl::FormatDuration(limit), ", wanted 1ms..10m"));
  }
  M1_ASSIGN_OR_RETURN(HttpAnswer answer, HttpGet(*target, path, limit));
  absl::StripAsciiWhitespace(&answer.body);
  if (answer.status != 200) {
    return absl::UnavailableError(
        absl::StrCat(target_text, path, " says ", answer.status, ": ", answer.body));
  }
  std::cout << answer.body << std::endl;
  return absl::OkStatus();
}

}  // namespace

int RunHealth(const std::vector<std::string>& args) {
  const absl::Status status = Health(args);
  return status.ok() ? 0 : FailCommand("health", status);
}

}  // namespace m1
