// One GET of what a server shows on --metrics_port, over plain HTTP.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

struct HttpTarget {
  std::string host;
  int port = 0;
};

// "127.0.0.1:9464", "[::1]:9464" or "name:9464". Errors: InvalidArgument naming the text.
absl::StatusOr<HttpTarget> ParseHttpTarget(absl::string_view text);

struct HttpAnswer {
  int status = 0;
  std::string body;  // its first 4 KiB
};

// Errors: Unavailable when nobody listens there, or the answer was not whole within `timeout`,
// which is for everything: looking up the name, connecting, and an answer that drips.
absl::StatusOr<HttpAnswer> HttpGet(const HttpTarget& target, const std::string& path,
                                   absl::Duration timeout);

}  // namespace m1
