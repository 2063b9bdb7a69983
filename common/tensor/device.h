// Where a tensor's memory lies.
#pragma once

#include <cstdint>

namespace m1 {

enum class DeviceKind : uint8_t { kCpu = 0, kCuda = 1 };

}  // namespace m1
