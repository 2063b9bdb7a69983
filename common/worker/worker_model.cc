#include "common/worker/worker_model.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
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
constexpr const char* kWeightMemories[] = {"auto", "copy", "mmap"};

// The number behind `key` in a file of the system; its first word if `key` is empty. None where
// there is no such file or the word is no number ("max").
std::optional<int64_t> SystemNumber(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (!key.empty() && word != key && file >> word) {
  }
  int64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

int64_t AvailableBytes() {
  const int64_t kib = SystemNumber("/proc/meminfo", "MemAvailable:").value_or(0);
  const int64_t limit =
      SystemNumber("/sys/fs/cgroup/memory.max", "").value_or(std::numeric_limits<int64_t>::max());
  return std::min(kib * 1024, limit);
}

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
  if (std::find(std::begin(kWeightMemories), std::end(kWeightMemories), options.weights) ==
      std::end(kWeightMemories)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--weights is \"", options.weights, "\", wanted auto, copy or mmap"));
  }
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

WeightMemory ChooseWeightMemory(const std::string& weights, int64_t bytes) {
  const int64_t available = AvailableBytes();
  const bool copies = weights == "copy" || (weights == "auto" && bytes <= available / 2);
  M1_LOG(kInfo) << "weights lie in " << (copies ? "copies with large pages" : "mapped files")
                << " --weights=" << weights << " bytes=" << bytes
                << " available_bytes=" << available;
  return copies ? WeightMemory::kCopied : WeightMemory::kMapped;
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
