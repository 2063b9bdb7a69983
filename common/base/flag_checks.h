// Checks of command-line values, with messages that name the flag.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

// Errors: InvalidArgument naming the flag, its value and the range.
inline absl::Status CheckFlagRange(absl::string_view flag, int64_t value, int64_t least,
                                   int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, ", wanted ", least, " to ", most));
}

inline absl::Status CheckFlagRange(absl::string_view flag, absl::Duration value,
                                   absl::Duration least, absl::Duration most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", absl::FormatDuration(value),
                                                 ", wanted ", absl::FormatDuration(least), " to ",
                                                 absl::FormatDuration(most)));
}

}  // namespace m1
