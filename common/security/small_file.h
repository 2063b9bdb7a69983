// Certificates, keys and tokens are small files.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

inline constexpr size_t kMaxSmallFileBytes = 1 << 20;

// Errors: InvalidArgument naming `flag` and the path: no such file, not readable, not a regular
// file (a link to one is), empty, or above kMaxSmallFileBytes.
absl::StatusOr<std::string> ReadSmallFile(absl::string_view flag, const std::string& path);
// The same, where a file with nothing in it means something.
absl::StatusOr<std::string> ReadSmallOrEmptyFile(absl::string_view flag, const std::string& path);

}  // namespace m1
