// Asks grpc.health.v1 of a server, without its generated code (the distribution ships none).
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

#include "common/security/tls_identity.h"

namespace m1 {

class HealthProbe {
 public:
  // `identity`: shown to a router with TLS; null: plaintext.
  HealthProbe(const std::string& address, const TlsIdentity* identity);
  // True when service "" answers SERVING within `timeout`.
  bool IsServing(absl::Duration timeout);

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace m1
