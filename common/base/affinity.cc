#include "common/base/affinity.h"

#include <sched.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace m1 {
namespace {

// The kernel refuses masks that are too short for its machine; none has more cores than this.
constexpr int kMaxCores = 1 << 16;

struct FreeCpuSet {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, FreeCpuSet>;

}  // namespace

absl::StatusOr<std::vector<int>> AllowedCores() {
  const CpuSet set(CPU_ALLOC(kMaxCores));
  const size_t size = CPU_ALLOC_SIZE(kMaxCores);
  CPU_ZERO_S(size, set.get());
  if (sched_getaffinity(0, size, set.get()) != 0) {
    return absl::InternalError(absl::StrCat("sched_getaffinity: ", std::strerror(errno)));
  }
  std::vector<int> cores;
  for (int core = 0; core < kMaxCores; ++core) {
    if (CPU_ISSET_S(static_cast<size_t>(core), size, set.get())) cores.push_back(core);
  }
  return cores;
}

absl::Status PinThisThread(int core) {
  if (core < 0 || core >= kMaxCores) {
    return absl::InvalidArgumentError(absl::StrCat("core ", core, ", wanted 0 to ", kMaxCores - 1));
  }
  const CpuSet set(CPU_ALLOC(kMaxCores));
  const size_t size = CPU_ALLOC_SIZE(kMaxCores);
  CPU_ZERO_S(size, set.get());
  CPU_SET_S(static_cast<size_t>(core), size, set.get());
  if (sched_setaffinity(0, size, set.get()) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("core ", core, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

std::string FormatCores(const std::vector<int>& cores) { return absl::StrJoin(cores, ","); }

}  // namespace m1
