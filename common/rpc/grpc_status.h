// The one place that converts statuses: same code, same message, and payloads as google.rpc
// details. A payload whose type URL is "type.googleapis.com/google.rpc.BadRequest" reaches a client
// as the standard error detail of that name, and the other way round.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace m1 {

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace m1
