// A gRPC server with what all our servers share: grpc.health.v1, reflection, the line
// `listening HOST:PORT` on stdout, and one order of shutdown:
//
//   runner->SetServing(false);   // balancers and routers look elsewhere
//   ... drain: the service ends or finishes its long-lived streams ...
//   runner->Shutdown(grace);     // no new calls; what runs after `grace` is cancelled
//   ... stop the engine, free the device ...
//
// Services, and whatever `configure` added, must outlive the runner. Thread-safe, except
// destruction.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "common/base/watchdog.h"
#include "common/metrics/registry.h"
#include "common/security/security.h"

namespace m1 {

struct ServerOptions {
  // An IP address or host name, or "unix:PATH" (then `port` is unused).
  std::string address = "127.0.0.1";
  // 0 picks a free port. A port in use is an error, never shared.
  int port = 0;
  // -1: no limit.
  int max_receive_message_bytes = 64 << 20;
  // Print `listening HOST:PORT` to stdout once the server accepts connections.
  bool announce = true;
  // Told of each SetServing.
  std::function<void(bool)> on_serving = nullptr;
  // TLS, and who may call; outlives the runner. Null: plaintext, for everybody on this host.
  const Security* security = nullptr;
  // Where calls and what `security` does are counted; outlives the runner and its services. Null:
  // nowhere.
  MetricsRegistry* metrics = nullptr;
  // What liveness says; outlives the runner. Null: it is alive while it serves.
  const Watchdog* watchdog = nullptr;
};

class ServerRunner {
 public:
  // `configure` may add completion queues to the builder; such queues are shut down by their owner
  // after Shutdown returned. Errors: InvalidArgument naming --address and --port when listening
  // fails, or when other hosts would reach a listener without `security`.
  static absl::StatusOr<std::unique_ptr<ServerRunner>> Start(
      const ServerOptions& options, const std::vector<grpc::Service*>& services,
      const std::function<void(grpc::ServerBuilder&)>& configure = nullptr);
  // Shuts down at once if Shutdown was not called.
  ~ServerRunner();
  ServerRunner(const ServerRunner&) = delete;
  ServerRunner& operator=(const ServerRunner&) = delete;

  // 0 on a unix socket.
  int port() const { return port_; }
  // "127.0.0.1:5001" or "unix:PATH": what clients connect to.
  const std::string& target() const { return target_; }

  // State of grpc.health.v1 services "" and "readiness". NOT_SERVING at first. The first time that
  // it serves is logged with the seconds since the process was started. Service "liveness" is
  // SERVING until Shutdown. While the watchdog says that a loop is stuck, which is logged, all
  // three are NOT_SERVING.
  void SetServing(bool serving);
  // Waits for SIGTERM or SIGINT; see InitProcess in process.h.
  void WaitForSignal();
  void Shutdown(absl::Duration grace);

 private:
  ServerRunner() = default;
  void PublishHealth() ABSL_EXCLUSIVE_LOCKS_REQUIRED(health_mutex_);
  // Until Shutdown; publishes what changes.
  void WatchLiveness(const Watchdog& watchdog);
  void StopWatching();

  int port_ = 0;
  std::string target_;
  std::atomic<bool> was_serving_{false};
  std::function<void(bool)> on_serving_;
  std::unique_ptr<ScrapedMetrics> security_metrics_;
  std::unique_ptr<grpc::Server> server_;

  Mutex health_mutex_;
  bool is_serving_ ABSL_GUARDED_BY(health_mutex_) = false;
  bool is_alive_ ABSL_GUARDED_BY(health_mutex_) = true;
  CondVar watch_changed_;
  bool watch_stopped_ ABSL_GUARDED_BY(health_mutex_) = false;
  std::thread watcher_;
};

}  // namespace m1
