// The public service Control: what the fleet does, and how to stop it.
#pragma once

#include "m1/v1/control.grpc.pb.h"
#include "router/grpc_router.h"

namespace m1 {

// Thread-safe. It uses `router` only while a call is open, so it outlives the
// router's server.
class ControlService final : public v1::Control::Service {
 public:
  explicit ControlService(Router* router);

  grpc::Status GetLoad(grpc::ServerContext* context, const v1::GetLoadRequest* request,
                       v1::GetLoadResponse* response) override;
  grpc::Status GetTopology(grpc::ServerContext* context, const v1::GetTopologyRequest* request,
                           v1::GetTopologyResponse* response) override;
  grpc::Status Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                     v1::AbortResponse* response) override;
  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                     v1::DrainResponse* response) override;

 private:
  Dispatcher* const dispatcher_;
  CallRegistry* const registry_;
  const WorkerFleet* const fleet_;
};

}  // namespace m1
