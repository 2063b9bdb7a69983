// Flags that every server has: --tls_cert, --tls_key, --tls_ca, --insecure.
#pragma once

#include <string>

#include "common/security/security.h"

namespace m1 {

// Of a server of this role that listens on `address`; unchecked.
SecurityOptions SecurityFromFlags(Role role, const std::string& address);

}  // namespace m1
