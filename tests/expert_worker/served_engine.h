// The server of an expert worker inside the test's process: an engine and its service on loopback.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"

#include "common/base/check.h"
#include "common/rpc/server_runner.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"

namespace m1 {

class ServedEngine {
 public:
  // Both outlive this. `port` 0: a free one.
  ServedEngine(Engine* engine, ExchangeService* service, int port)
      : engine_(engine), service_(service) {
    ServerOptions server;
    server.announce = false;
    server.port = port;
    auto runner = ServerRunner::Start(server, {service->service()},
                                      [service](auto& builder) { service->AddQueue(builder); });
    M1_CHECK(runner.ok());
    runner_ = *std::move(runner);
    service_->Start();
    runner_->SetServing(true);
  }
  // Without draining: streams break, as when the process dies.
  ~ServedEngine() {
    runner_->Shutdown(absl::ZeroDuration());
    engine_->Stop();
    service_->Stop();
  }
  ServedEngine(const ServedEngine&) = delete;
  ServedEngine& operator=(const ServedEngine&) = delete;

  int port() const { return runner_->port(); }
  const std::string& address() const { return runner_->target(); }
  ServerRunner& runner() { return *runner_; }

 private:
  Engine* const engine_;
  ExchangeService* const service_;
  std::unique_ptr<ServerRunner> runner_;
};

}  // namespace m1
