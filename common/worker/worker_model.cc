#include "common/worker/worker_model.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/base/flag_checks.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/kernels/cpu_backend.h"

namespace m1 {
namespace {

constexpr absl::Duration kLogPeriod = absl::Seconds(2);

// A config.json that cannot be used is InvalidArgument to who wrote it; here it is a bad file.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& directory) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(directory);
  if (absl::IsInvalidArgument(checkpoint.status())) {
    return absl::DataLossError(checkpoint.status().message());
  }
  return checkpoint;
}

}  // namespace

absl::Status Validate(const WorkerModelOptions& options) {
  if (options.directory.empty()) {
    return absl::InvalidArgumentError("--model is empty, wanted a checkpoint directory");
  }
  M1_RETURN_IF_ERROR(CheckFlagRange("threads", options.threads, 0, 1024));
  // Whether the word is known does not depend on the model.
  return ActivationDType(options.activation_dtype, ModelConfig()).status();
}

absl::StatusOr<WorkerModel> OpenWorkerModel(const WorkerModelOptions& options) {
  WorkerModel model;
  M1_ASSIGN_OR_RETURN(model.backend, CreateBackend(options));
  M1_ASSIGN_OR_RETURN(model.checkpoint, OpenCheckpoint(options.directory));
  M1_ASSIGN_OR_RETURN(model.activation_dtype,
                      ActivationDType(options.activation_dtype, model.checkpoint->config()));
  model.identity = {.fingerprint = model.checkpoint->fingerprint(),
                    .weight_format = model.checkpoint->weight_format(),
                    .activation_dtype = std::string(DTypeName(model.activation_dtype)),
                    .device_kind = "cpu",
                    .numerics_revision = kNumericsRevision};
  return model;
}

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateBackend(const WorkerModelOptions& options) {
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  absl::StatusOr<std::unique_ptr<KernelBackend>> backend =
      CreateCpuBackend({.num_threads = options.threads == 0 ? cores : options.threads,
                        .target = options.cpu_target});
  if (!backend.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cpu_target \"", options.cpu_target, "\": ", backend.status().message()));
  }
  return backend;
}

PrefetchProgress LogLoading(std::function<bool()> is_stopped) {
  return [is_stopped = std::move(is_stopped), next_line = absl::Now() + kLogPeriod](
             int64_t done_bytes, int64_t total_bytes) mutable {
    if (absl::Now() >= next_line) {
      M1_LOG(kInfo) << "loading done_bytes=" << done_bytes << " total_bytes=" << total_bytes;
      next_line = absl::Now() + kLogPeriod;
    }
    return !is_stopped();
  };
}

}  // namespace m1
