#include "common/kernels/cpu_backend.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/kernels/cpu/cpu_kernel_backend.h"
#include "common/kernels/cpu/targets.h"

namespace m1 {
namespace {

constexpr int kMaxThreads = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateCpuBackend(const CpuBackendOptions& options) {
  if (options.num_threads < 1 || options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu backend: ", options.num_threads, " threads, wanted 1 to ", kMaxThreads));
  }
  if (!options.cores.empty() && options.cores.size() < static_cast<size_t>(options.num_threads)) {
    return absl::InvalidArgumentError(absl::StrCat("cpu backend: ", options.num_threads,
                                                   " threads on ", options.cores.size(),
                                                   " cores, wanted at most one thread a core"));
  }
  for (const CpuTarget& target : CpuTargets()) {
    const bool any = options.target.empty();
    if (!any && options.target != target.name) continue;
    if (CanRun(target))
      return std::make_unique<CpuKernelBackend>(target, options.num_threads, options.cores);
    if (!any) {
      return absl::FailedPreconditionError(
          absl::StrCat("cpu backend: this machine cannot run target ", options.target));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("cpu backend: unknown target ", options.target,
                                                 ", wanted one of ",
                                                 absl::StrJoin(CompiledCpuTargets(), ", ")));
}

}  // namespace m1
