// m1.v1.AttentionWorker over an Engine: decodes, enqueues, writes what comes back.
#pragma once

#include "attention_worker/engine.h"
#include "common/exchange/exchange.h"
#include "m1/v1/attention.grpc.pb.h"

namespace m1 {

// Thread-safe. The engine and the exchange are borrowed.
class AttentionService final : public v1::AttentionWorker::Service {
 public:
  AttentionService(const v1::WorkerIdentity& identity, const StepLimits& limits, Engine* engine,
                   const ExpertExchange* exchange);

  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeAttentionRequest* request,
                        v1::DescribeAttentionResponse* response) override;
  // Takes a thread for reading and one for writing: there are few routers and their streams are
  // long.
  grpc::Status Run(grpc::ServerContext* context,
                   grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* stream) override;

 private:
  const v1::WorkerIdentity identity_;
  const v1::WorkerLimits limits_;
  Engine* const engine_;
  const ExpertExchange* const exchange_;
};

}  // namespace m1
