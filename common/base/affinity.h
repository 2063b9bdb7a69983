// Which cores threads run on.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

// The cores that the calling thread may run on, ascending; at least one. Fewer than the machine has
// in a container or under taskset. Errors: Internal (the system does not say).
absl::StatusOr<std::vector<int>> AllowedCores();

// Keeps the calling thread on `core`, and the threads it starts later. Errors: InvalidArgument (no
// such core, or this process may not use it).
absl::Status PinThisThread(int core);

// For messages: "0,1,4".
std::string FormatCores(const std::vector<int>& cores);

}  // namespace m1
