// A device that is of no use any more.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace m1 {

// Called once, on the thread that called the backend, with the error of that call, before the call
// returns: all later ones fail. May end the process.
using DeviceFaultHandler = std::function<void(const absl::Status&)>;

}  // namespace m1
