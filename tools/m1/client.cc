#include "tools/m1/client.h"

#include <utility>

#include "absl/time/clock.h"

#include "common/base/status_macros.h"
#include "common/rpc/grpc_status.h"

namespace m1 {

Client::Client(Connection connection)
    : connection_(std::move(connection)), stub_(v1::Inference::NewStub(connection_.NewChannel())) {}

absl::Status Client::Generate(const v1::GenerateRequest& request, absl::Duration timeout,
                              const std::function<void(const v1::GenerateResponse&)>& on_response) {
  grpc::ClientContext context;
  connection_.AddToken(&context);
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  {
    MutexLock lock(&mutex_);
    running_ = &context;
  }
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) on_response(response);
  const grpc::Status status = reader->Finish();
  {
    MutexLock lock(&mutex_);
    running_ = nullptr;
  }
  return FromGrpcStatus(status);
}

bool Client::Cancel() {
  MutexLock lock(&mutex_);
  if (running_ == nullptr) return false;
  running_->TryCancel();
  return true;
}

}  // namespace m1
