#include "common/rpc/server_runner.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <iostream>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/process_age.h"
#include "common/rpc/process.h"

namespace m1 {
namespace {

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

bool IsLoopback(absl::string_view address) {
  return absl::StartsWith(address, "unix:") || absl::StartsWith(address, "127.") ||
         address == "localhost" || address == "::1" || address == "[::1]";
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

}  // namespace

absl::StatusOr<std::unique_ptr<ServerRunner>> ServerRunner::Start(
    const ServerOptions& options, const std::vector<grpc::Service*>& services,
    const std::function<void(grpc::ServerBuilder&)>& configure) {
  EnablePlugins();
  const bool unix_socket = absl::StartsWith(options.address, "unix:");
  const std::string wanted =
      unix_socket ? options.address : HostPort(options.address, options.port);

  grpc::ServerBuilder builder;
  int selected_port = 0;
  builder.AddListeningPort(wanted, grpc::InsecureServerCredentials(), &selected_port);
  builder.SetMaxReceiveMessageSize(options.max_receive_message_bytes);
  builder.SetMaxSendMessageSize(-1);
  SetChannelArguments(builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (configure) configure(builder);

  std::unique_ptr<ServerRunner> runner(new ServerRunner());
  runner->server_ = builder.BuildAndStart();
  if (runner->server_ == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", wanted,
                     " (--address, --port): in use, not allowed, or not an address of this host"));
  }
  runner->on_serving_ = options.on_serving;
  runner->SetServing(false);
  if (!IsLoopback(options.address)) {
    M1_LOG(kWarning)
        << "connections from other hosts are neither encrypted nor authenticated address="
        << options.address;
  }
  runner->port_ = unix_socket ? 0 : selected_port;
  runner->target_ = unix_socket ? wanted : HostPort(options.address, selected_port);
  if (options.announce) std::cout << "listening " << runner->target_ << std::endl;
  return runner;
}

ServerRunner::~ServerRunner() { Shutdown(absl::ZeroDuration()); }

void ServerRunner::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus("", serving);
  if (on_serving_) on_serving_(serving);
  if (serving && !was_serving_.exchange(true)) {
    M1_LOG(kInfo) << "event=serving address=" << target_
                  << absl::StrFormat(" seconds=%.2f", absl::ToDoubleSeconds(ProcessAge()));
  }
}

void ServerRunner::WaitForSignal() { WaitForTerminationSignal(); }

void ServerRunner::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  SetServing(false);
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(grace));
}

}  // namespace m1
