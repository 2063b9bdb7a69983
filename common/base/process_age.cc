#include "common/base/process_age.h"

#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace m1 {

absl::Duration ProcessAge() {
  constexpr int kStartTimeField = 22;  // proc(5): in clock ticks since boot
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // The second field, the program's name in brackets, may hold blanks.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string word;
  for (int field = 3; field < kStartTimeField; ++field) fields >> word;
  int64_t ticks = 0;
  timespec now{};
  if (!(fields >> ticks) || clock_gettime(CLOCK_BOOTTIME, &now) != 0) return absl::ZeroDuration();
  return absl::DurationFromTimespec(now) -
         absl::Seconds(static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK)));
}

}  // namespace m1
