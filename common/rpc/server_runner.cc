#include "common/rpc/server_runner.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <iostream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/process_age.h"
#include "common/base/status_macros.h"
#include "common/rpc/process.h"
#include "common/rpc/rpc_metrics.h"
#include "common/rpc/server_credentials.h"
#include "common/security/listen_address.h"

namespace m1 {
namespace {

constexpr absl::Duration kLivenessPeriod = absl::Seconds(1);

// The registries of gRPC's health and reflection plugins are process-wide; they are filled once.
void EnablePlugins() {
  static const bool enabled = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(enabled);
}

// An IPv6 address needs brackets before its port.
std::string HostPort(const std::string& address, int port) {
  const bool bare_ipv6 = absl::StrContains(address, ':') && !absl::StartsWith(address, "[");
  return bare_ipv6 ? absl::StrCat("[", address, "]:", port) : absl::StrCat(address, ":", port);
}

void SetChannelArguments(grpc::ServerBuilder& builder) {
  // By default gRPC lets a second server share the port silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping every 10 s (channel.h), also while a stream is silent.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A client whose host is gone says no goodbye; what it holds is freed when a ping stays without
  // answer.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

void CountCallsOf(grpc::ServerBuilder& builder, MetricsRegistry* metrics) {
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
  creators.push_back(CountCalls(metrics));
  builder.experimental().SetInterceptorCreators(std::move(creators));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerRunner>> ServerRunner::Start(
    const ServerOptions& options, const std::vector<grpc::Service*>& services,
    const std::function<void(grpc::ServerBuilder&)>& configure) {
  if (options.security == nullptr) {
    M1_RETURN_IF_ERROR(CheckListener(options.address, /*has_tls=*/false, /*insecure=*/false));
  }
  EnablePlugins();
  const bool unix_socket = IsUnixSocket(options.address);
  const std::string wanted =
      unix_socket ? options.address : HostPort(options.address, options.port);

  grpc::ServerBuilder builder;
  int selected_port = 0;
  builder.AddListeningPort(wanted,
                           options.security == nullptr ? grpc::InsecureServerCredentials()
                                                       : MakeServerCredentials(options.security),
                           &selected_port);
  builder.SetMaxReceiveMessageSize(options.max_receive_message_bytes);
  builder.SetMaxSendMessageSize(-1);
  SetChannelArguments(builder);
  if (options.metrics != nullptr) CountCallsOf(builder, options.metrics);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (configure) configure(builder);

  std::unique_ptr<ServerRunner> runner(new ServerRunner());
  runner->server_ = builder.BuildAndStart();
  if (runner->server_ == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", wanted,
                     " (--address, --port): in use, not allowed, or not an address of this host"));
  }
  if (options.metrics != nullptr && options.security != nullptr) {
    runner->security_metrics_ = ScrapeSecurity(options.metrics, options.security);
  }
  runner->on_serving_ = options.on_serving;
  runner->SetServing(false);
  runner->port_ = unix_socket ? 0 : selected_port;
  runner->target_ = unix_socket ? wanted : HostPort(options.address, selected_port);
  if (options.watchdog != nullptr) {
    runner->watcher_ = std::thread(
        [raw = runner.get(), watchdog = options.watchdog] { raw->WatchLiveness(*watchdog); });
  }
  if (options.announce) std::cout << "listening " << runner->target_ << std::endl;
  return runner;
}

ServerRunner::~ServerRunner() { Shutdown(absl::ZeroDuration()); }

void ServerRunner::SetServing(bool serving) {
  {
    MutexLock lock(&health_mutex_);
    is_serving_ = serving;
    PublishHealth();
  }
  if (on_serving_) on_serving_(serving);
  if (serving && !was_serving_.exchange(true)) {
    M1_LOG(kInfo) << "event=serving address=" << target_
                  << absl::StrFormat(" seconds=%.2f", absl::ToDoubleSeconds(ProcessAge()));
  }
}

void ServerRunner::PublishHealth() {
  grpc::HealthCheckServiceInterface& health = *server_->GetHealthCheckService();
  health.SetServingStatus("liveness", is_alive_);
  for (const char* service : {"", "readiness"}) {
    health.SetServingStatus(service, is_serving_ && is_alive_);
  }
}

void ServerRunner::WatchLiveness(const Watchdog& watchdog) {
  MutexLock lock(&health_mutex_);
  while (!watch_stopped_) {
    const std::string why = watchdog.WhyStuck();
    if (why.empty() != is_alive_) {
      is_alive_ = why.empty();
      if (is_alive_) {
        M1_LOG(kInfo) << "event=unstuck";
      } else {
        M1_LOG(kError) << "event=stuck reason=\"" << why << "\"";
      }
      PublishHealth();
    }
    watch_changed_.WaitUntil(&health_mutex_, absl::Now() + kLivenessPeriod);
  }
}

void ServerRunner::StopWatching() {
  std::thread watcher;
  {
    MutexLock lock(&health_mutex_);
    watch_stopped_ = true;
    watch_changed_.SignalAll();
    watcher.swap(watcher_);
  }
  if (watcher.joinable()) watcher.join();
}

void ServerRunner::WaitForSignal() { WaitForTerminationSignal(); }

void ServerRunner::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  SetServing(false);
  StopWatching();
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(grace));
}

}  // namespace m1
