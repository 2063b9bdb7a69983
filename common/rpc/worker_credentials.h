// How a router or an attention worker calls workers: it shows its own certificate and accepts
// servers whose certificate is of our authorities and has the role it looks for. Host names are not
// compared: workers are reached by addresses that change.
#pragma once

#include <grpcpp/security/credentials.h>

#include <memory>

#include "common/security/role.h"
#include "common/security/tls_identity.h"

namespace m1 {

// For new channels; null, which is plaintext, without an identity.
std::shared_ptr<grpc::ChannelCredentials> MakeWorkerCredentials(const TlsIdentity* identity,
                                                                Role server_role);

}  // namespace m1
