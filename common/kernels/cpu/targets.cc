#include "common/kernels/cpu/targets.h"

#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/kernels/cpu_backend.h"
#include "common/kernels/exact_math.h"

namespace m1 {
namespace {

#if defined(__x86_64__)
// The checks of libgcc and compiler-rt include the operating system's part (XGETBV).
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool HasAvx512Vnni() { return HasAvx512() && __builtin_cpu_supports("avx512vnni"); }
bool HasAvx512Bf16() { return HasAvx512Vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

constexpr CpuTarget kTargets[] = {
#if defined(__x86_64__)
    {"avx512bf16", &cpu_avx512bf16::kKernels, HasAvx512Bf16},
    {"avx512vnni", &cpu_avx512vnni::kKernels, HasAvx512Vnni},
    {"avx512", &cpu_avx512::kKernels, HasAvx512},
    {"avx2", &cpu_avx2::kKernels, HasAvx2},
#endif
    {"portable", &cpu_portable::kKernels, [] { return true; }},
};

}  // namespace

std::span<const CpuTarget> CpuTargets() { return kTargets; }

bool CanRun(const CpuTarget& target) {
  if (!target.machine_has()) return false;
  const ScopedFlushDenormals flush;
  if (target.kernels->pair_step_is_exact()) return true;
  M1_LOG(kWarning) << "cpu target=" << target.name
                   << " left out: its bf16 dot product differs from two fused multiply-adds";
  return false;
}

std::vector<std::string> SupportedCpuTargets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : CpuTargets()) {
    if (CanRun(target)) names.emplace_back(target.name);
  }
  return names;
}

std::vector<std::string> CompiledCpuTargets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : CpuTargets()) names.emplace_back(target.name);
  return names;
}

}  // namespace m1
