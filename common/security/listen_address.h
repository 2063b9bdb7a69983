// Which listeners other hosts can reach, and what that takes.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace m1 {

// "unix:PATH".
bool IsUnixSocket(absl::string_view address);
// An address that only processes of this host reach: 127.0.0.0/8, ::1, localhost, unix:PATH. Other
// host names count as reachable, whatever they resolve to.
bool IsLocalAddress(absl::string_view address);

// Errors: InvalidArgument naming --address for one that other hosts reach, without TLS and without
// --insecure.
absl::Status CheckListener(absl::string_view address, bool has_tls, bool insecure);

}  // namespace m1
