// What stands between a listener and its services: TLS with certificates that may change while it
// runs, and one question to Security before each call, whatever the service, its API and its
// queue, also for methods that no service has.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "common/security/security.h"

namespace m1 {

// `security` outlives the server. Clients are asked for certificates where Security says so.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Security* security);

}  // namespace m1
