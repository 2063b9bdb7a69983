// Asks grpc.health.v1 of a server, without its generated code (the distribution ships none).
#pragma once

#include <memory>
#include <string>

#include <grpcpp/channel.h>

#include "absl/time/time.h"

namespace m1 {

class HealthProbe {
 public:
  explicit HealthProbe(const std::string& address);
  // True when service "" answers SERVING within `timeout`.
  bool IsServing(absl::Duration timeout);

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace m1
