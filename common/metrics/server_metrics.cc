#include "common/metrics/server_metrics.h"

#include <CivetServer.h>

#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/log.h"
#include "common/base/process_age.h"
#include "common/base/status_macros.h"
#include "common/metrics/port_waker.h"
#include "common/metrics/process_metrics.h"

namespace m1 {
namespace {

bool IsIpAddress(absl::string_view address) {
  return !address.empty() &&
         address.find_first_not_of("0123456789abcdefABCDEF.:[]") == absl::string_view::npos;
}

bool IsIpv6(absl::string_view address) { return absl::StrContains(address, ':'); }

// A connection takes a thread until its request has come, at most kRequestTimeoutMs: so that idle
// and slow ones do not starve probes there are many. What no thread has yet waits in the queue.
constexpr int kThreads = 128;
constexpr int kRequestTimeoutMs = 1000;
constexpr int kMaxRequestBytes = 8192;

struct Reply {
  int code = 200;
  std::string body;
};

}  // namespace

class ServerMetrics::Page final : public CivetHandler {
 public:
  explicit Page(std::function<Reply()> reply) : reply_(std::move(reply)) {}

  bool handleGet(CivetServer* /*server*/, mg_connection* connection) override {
    const Reply reply = reply_();
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
              "Content-Length: %zu\r\nConnection: close\r\n\r\n",
              reply.code, reply.code == 200 ? "OK" : "Service Unavailable", reply.body.size());
    mg_write(connection, reply.body.data(), reply.body.size());
    return true;
  }

 private:
  const std::function<Reply()> reply_;
};

absl::StatusOr<ServerMetricsOptions> ReadMetricsFlags(const std::string& component,
                                                      const std::string& metrics_address,
                                                      int metrics_port,
                                                      const std::string& address) {
  if (metrics_port < 0 || metrics_port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics_port is ", metrics_port, ", wanted 0..65535"));
  }
  if (!metrics_address.empty() && !IsIpAddress(metrics_address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics_address is \"", metrics_address, "\", wanted an IP address"));
  }
  const std::string own = IsIpAddress(address) ? address : "127.0.0.1";
  return ServerMetricsOptions{component, metrics_address.empty() ? own : metrics_address,
                              metrics_port};
}

ServerMetrics::ServerMetrics(const ServerMetricsOptions& options)
    : watchdog_(options.liveness_timeout, &clock_),
      startup_seconds_(registry_.AddGauge(
          "m1_startup_seconds", "From the start of the process to the first time it was ready.")) {
  registry_
      .AddGauge("m1_build_info", "1; what was built, in its labels.",
                {{"component", options.component}, {"version", M1_VERSION}, {"commit", M1_COMMIT}})
      .Set(1);
  AddProcessMetrics(&process_);
  process_.AddGauges("m1_ready", "1 while requests can be answered, else 0.", [this] {
    return std::vector<MetricSample>{{{}, ready() ? 1.0 : 0.0}};
  });
  process_.Publish();
}

absl::StatusOr<std::unique_ptr<ServerMetrics>> ServerMetrics::Start(
    const ServerMetricsOptions& options) {
  std::unique_ptr<ServerMetrics> metrics(new ServerMetrics(options));
  if (options.port != 0) M1_RETURN_IF_ERROR(metrics->Listen(options.address, options.port));
  return metrics;
}

ServerMetrics::~ServerMetrics() {
  if (server_ == nullptr) return;
  // civetweb waits up to two seconds for a connection before it sees that it is to stop.
  const PortWaker waker(address_, port_);
  server_.reset();
}

absl::Status ServerMetrics::Listen(const std::string& address, int port) {
  absl::string_view bare = address;
  if (absl::ConsumePrefix(&bare, "[")) absl::ConsumeSuffix(&bare, "]");
  address_ = std::string(bare);
  port_ = port;
  const std::string where = IsIpv6(address_) ? absl::StrCat("[", address_, "]:", port)
                                             : absl::StrCat(address_, ":", port);
  try {
    server_ = std::make_unique<CivetServer>(std::vector<std::string>{
        "listening_ports", where, "num_threads", absl::StrCat(kThreads), "connection_queue",
        absl::StrCat(kThreads), "request_timeout_ms", absl::StrCat(kRequestTimeoutMs),
        "max_request_size", absl::StrCat(kMaxRequestBytes), "enable_keep_alive", "no"});
  } catch (const CivetException&) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on ", where,
                                                   " (--metrics_address, --metrics_port): in use, "
                                                   "not allowed, or not an address of this host"));
  }
  const auto add = [this](const char* path, std::function<Reply()> reply) {
    pages_.push_back(std::make_unique<Page>(std::move(reply)));
    server_->addHandler(path, pages_.back().get());
  };
  add("/metrics", [this] { return Reply{200, registry_.Text()}; });
  add("/healthz", [this] {
    const std::string why = watchdog_.WhyStuck();
    return why.empty() ? Reply{200, "alive\n"} : Reply{503, why + "\n"};
  });
  add("/startupz", [this] {
    return is_listening_ ? Reply{200, "started\n"} : Reply{503, WhyNotReady() + "\n"};
  });
  add("/readyz", [this] {
    return ready() ? Reply{200, "ready\n"} : Reply{503, WhyNotReady() + "\n"};
  });
  M1_LOG(kInfo) << "event=metrics address=" << where;
  return absl::OkStatus();
}

void ServerMetrics::SetReady(bool ready) {
  is_listening_ = true;
  ready_ = ready;
  if (ready && !was_ready_.exchange(true)) {
    startup_seconds_.Set(absl::ToDoubleSeconds(ProcessAge()));
  }
}

std::string ServerMetrics::WhyNotReady() const {
  if (!is_listening_) return "loading the model";
  const std::string stuck = watchdog_.WhyStuck();
  if (!stuck.empty()) return stuck;
  const std::string why = registry_.WhyNotReady();
  if (!why.empty()) return why;
  return was_ready_ ? "draining" : "starting";
}

void ServerMetrics::SetModel(const prometheus::Labels& labels) {
  registry_.AddGauge("m1_model_info", "1; what is served, in its labels.", labels).Set(1);
}

}  // namespace m1
