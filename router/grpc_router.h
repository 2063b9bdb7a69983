// What the router's services stand on: dispatcher, streams to the workers, registry of calls,
// server.
//
// Order of life: construct; construct the services on its parts; Serve; Stop; destroy it; destroy
// the services.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"

#include "common/base/clock.h"
#include "common/base/watchdog.h"
#include "common/rpc/server_runner.h"
#include "common/security/security.h"
#include "router/call_registry.h"
#include "router/dispatcher.h"
#include "router/grpc_worker_fleet.h"
#include "router/options.h"
#include "router/vocabulary.h"
#include "router/work_pool.h"

namespace m1 {

// What it works with; all outlive it.
struct RouterSurroundings {
  const Security* security = nullptr;  // null: plaintext, no tokens
  // Hears of readiness as health checks do, until Serve's server is gone.
  std::function<void(bool)> on_serving = nullptr;
  MetricsRegistry* metrics = nullptr;  // null: its server counts nothing
  Watchdog* watchdog = nullptr;        // null: nobody asks whether it stands still
};

// Thread-safe, except destruction.
class Router {
 public:
  Router(const RouterOptions& options, std::unique_ptr<Vocabulary> vocabulary,
         RouterSurroundings surroundings = {});
  // Ends at once what Stop did not end.
  ~Router();

  // Listens, and starts to reach for the workers. Errors: InvalidArgument when listening fails.
  absl::Status Serve(const std::vector<grpc::Service*>& services);
  // Admits nothing more, waits at most drain_timeout for what runs.
  void Stop();

  const RouterOptions& options() const { return options_; }
  const Vocabulary* vocabulary() const { return vocabulary_.get(); }
  const Clock* clock() const { return &clock_; }
  Dispatcher* dispatcher() { return dispatcher_.get(); }
  CallRegistry* registry() { return &registry_; }
  WorkPool* pool() { return &pool_; }
  const Security* security() const { return surroundings_.security; }
  const WorkerFleet* fleet() const { return fleet_.get(); }
  // After Serve.
  const ServerRunner& server() const { return *server_; }

 private:
  void Tick();

  const RouterOptions options_;
  const std::unique_ptr<Vocabulary> vocabulary_;
  const RouterSurroundings surroundings_;
  RealClock clock_;
  CallRegistry registry_;
  WorkPool pool_;

  Mutex server_mutex_;
  // Readiness may change before the server is there.
  bool is_serving_ ABSL_GUARDED_BY(server_mutex_) = false;
  ServerRunner* reported_server_ ABSL_GUARDED_BY(server_mutex_) = nullptr;

  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<WorkerFleet> fleet_;
  std::unique_ptr<ServerRunner> server_;

  // Of the ticker, which takes the locks that all the others take.
  Heartbeat* const heartbeat_;
  Mutex tick_mutex_;
  CondVar tick_stop_;
  bool is_stopped_ ABSL_GUARDED_BY(tick_mutex_) = false;
  std::thread ticker_;
};

}  // namespace m1
