#include "common/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/base/process_age.h"

namespace m1 {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

double CpuSeconds() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

// Of /proc/self/statm: 0 is virtual, 1 resident, in pages.
double MemoryBytes(int field) {
  std::ifstream file("/proc/self/statm");
  double pages = 0;
  for (int i = 0; i <= field; ++i) file >> pages;
  return file ? pages * static_cast<double>(sysconf(_SC_PAGESIZE)) : 0;
}

double OpenFiles() {
  std::error_code error;
  std::filesystem::directory_iterator entries("/proc/self/fd", error);
  if (error) return 0;
  double count = -1;  // without the one that lists
  for (; entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    if (error) break;
    ++count;
  }
  return count;
}

double MaxFiles() {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<double>(limit.rlim_cur) : 0;
}

}  // namespace

void AddProcessMetrics(ScrapedMetrics* metrics) {
  metrics->AddCounter("process_cpu_seconds_total", "Processor time used, user and system.",
                      CpuSeconds);
  metrics->AddGauge("process_virtual_memory_bytes", "Virtual memory.",
                    [] { return MemoryBytes(0); });
  metrics->AddGauge("process_resident_memory_bytes",
                    "Resident memory, pages of mapped files among them.",
                    [] { return MemoryBytes(1); });
  metrics->AddGauge("process_open_fds", "Open file descriptors.", OpenFiles);
  metrics->AddGauge("process_max_fds", "File descriptors that may be open.", MaxFiles);
  const double start = absl::ToDoubleSeconds(absl::Now() - ProcessAge() - absl::UnixEpoch());
  metrics->AddGauge("process_start_time_seconds", "When the process was started, Unix time.",
                    [start] { return start; });
}

}  // namespace m1
