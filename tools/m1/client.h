// One generation on a router, as the subcommands call it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "m1/v1/inference.grpc.pb.h"
#include "tools/m1/connection.h"

namespace m1 {

// Thread-safe: Cancel may come from any thread while Generate runs.
class Client {
 public:
  explicit Client(Connection connection);

  // Streams until the end. Errors: what the server answered; Cancelled after Cancel; Unavailable
  // when nobody listens at the target.
  absl::Status Generate(const v1::GenerateRequest& request, absl::Duration timeout,
                        const std::function<void(const v1::GenerateResponse&)>& on_response);
  // Ends the generation in progress. False when there is none.
  bool Cancel();

 private:
  const Connection connection_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
  Mutex mutex_;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace m1
