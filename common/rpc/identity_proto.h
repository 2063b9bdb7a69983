// WorkerIdentity to and from its message.
#pragma once

#include "common/exchange/identity.h"
#include "m1/v1/identity.pb.h"

namespace m1 {

v1::WorkerIdentity ToProto(const WorkerIdentity& identity);
WorkerIdentity FromProto(const v1::WorkerIdentity& proto);

}  // namespace m1
