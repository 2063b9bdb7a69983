// How long this process lives already.
#pragma once

#include "absl/time/time.h"

namespace m1 {

// Time since this process was started, to 10 ms; 0 where the system does not say.
absl::Duration ProcessAge();

}  // namespace m1
