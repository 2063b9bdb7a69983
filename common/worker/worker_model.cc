#include "common/worker/worker_model.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/base/affinity.h"
#include "common/base/flag_checks.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/kernels/cpu_backend.h"
#include "common/worker/gpu_backend.h"

namespace m1 {
namespace {

constexpr absl::Duration kLogPeriod = absl::Seconds(2);
constexpr const char* kWeightMemories[] = {"auto", "copy", "mmap"};
constexpr absl::string_view kCpu = "cpu";
constexpr absl::string_view kCuda = "cuda";

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
  if (options.device != kCpu && options.device != kCuda) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device is \"", options.device, "\", wanted cpu or cuda"));
  }
  if (options.device == kCuda && !options.cpu_target.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--cpu_target is \"", options.cpu_target,
                                                   "\", which --device cuda has no use for"));
  }
  // Whether the word is known does not depend on the model.
  return ActivationDType(options.activation_dtype, ModelConfig()).status();
}

absl::StatusOr<WorkerModel> OpenWorkerModel(const WorkerModelOptions& options,
                                            DeviceFaultHandler on_fault) {
  WorkerModel model;
  M1_ASSIGN_OR_RETURN(model.backend, CreateBackend(options, std::move(on_fault)));
  M1_ASSIGN_OR_RETURN(model.checkpoint, OpenCheckpoint(options.directory));
  M1_ASSIGN_OR_RETURN(model.activation_dtype,
                      ActivationDType(options.activation_dtype, model.checkpoint->config()));
  if (options.device == kCuda && model.activation_dtype != DType::kBf16) {
    return absl::InvalidArgumentError(
        absl::StrCat("--activation_dtype is ", DTypeName(model.activation_dtype),
                     options.activation_dtype == "auto" ? " (that of the checkpoint)" : "",
                     ", --device cuda takes bf16"));
  }
  if (const absl::Status checked =
          model.backend->CheckModel(ModelShapeOf(model.checkpoint->config()));
      !checked.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device is ", options.device, ": ", checked.message()));
  }
  model.identity = {.fingerprint = model.checkpoint->fingerprint(),
                    .weight_format = model.checkpoint->weight_format(),
                    .activation_dtype = std::string(DTypeName(model.activation_dtype)),
                    .device_kind = options.device,
                    .numerics_revision = kNumericsRevision};
  return model;
}

ModelShape ModelShapeOf(const ModelConfig& config) {
  const WeightQuantization& quantization = config.quantization;
  return {.hidden_size = config.hidden_size,
          .num_attention_heads = config.num_heads,
          .num_key_value_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .num_local_experts = config.num_experts,
          .num_experts_per_tok = config.num_experts_per_token,
          .intermediate_size = config.expert_intermediate_size,
          .shared_intermediate_size = config.shared_intermediate_size,
          .vocab_size = config.vocab_size,
          .has_lightning_layers = config.num_lightning_layers() > 0,
          .has_softmax_layers = config.num_softmax_layers() > 0,
          .matrix_dtype = config.weights_dtype,
          .expert_format = quantization.format,
          .other_format = quantization.everything ? quantization.format : MatrixFormat::kPlain,
          .group_size = quantization.group_size,
          .has_tied_lm_head = config.tie_word_embeddings};
}

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateBackend(const WorkerModelOptions& options,
                                                             DeviceFaultHandler on_fault) {
  if (options.device == kCuda) {
    absl::StatusOr<std::unique_ptr<KernelBackend>> gpu = CreateGpuBackend(std::move(on_fault));
    if (gpu.ok()) return gpu;
    return absl::InvalidArgumentError(absl::StrCat("--device is cuda: ", gpu.status().message()));
  }
  M1_ASSIGN_OR_RETURN(std::vector<int> cores, AllowedCores());
  const int num_cores = static_cast<int>(cores.size());
  const int num_threads = options.threads == 0 ? num_cores : options.threads;
  if (options.pin && num_threads > num_cores) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pin with --threads ", num_threads, ": this process may use ", num_cores,
                     " cores (", FormatCores(cores), "), wanted at most one thread a core"));
  }
  cores.resize(options.pin ? static_cast<size_t>(num_threads) : 0);
  if (options.pin) {
    M1_LOG(kInfo) << "event=pin cores=" << FormatCores(cores);
  }
  absl::StatusOr<std::unique_ptr<KernelBackend>> backend = CreateCpuBackend(
      {.num_threads = num_threads, .target = options.cpu_target, .cores = std::move(cores)});
  if (!backend.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cpu_target \"", options.cpu_target, "\": ", backend.status().message()));
  }
  return backend;
}

absl::StatusOr<WeightMemory> ChooseWeightMemory(const WorkerModelOptions& options, int64_t bytes) {
  if (options.device != kCpu) return WeightMemory::kMapped;
  const std::string& weights = options.weights;
  const int64_t available = AvailableBytes();
  const bool fits_twice = bytes <= available / 2;
  WeightMemory memory = WeightMemory::kMapped;
  if (weights == "copy" || (weights == "auto" && fits_twice)) {
    memory = fits_twice ? WeightMemory::kCopied : WeightMemory::kCopiedUncached;
  }
  if (memory != WeightMemory::kMapped && bytes > available) {
    return absl::InvalidArgumentError(absl::StrCat("--weights is copy, which takes ", bytes,
                                                   " bytes of memory, ", available,
                                                   " are available; mmap uses the files' pages"));
  }
  M1_LOG(kInfo) << "event=weights memory="
                << (memory == WeightMemory::kMapped ? "mapped_files" : "copies_with_large_pages")
                << " page_cache=" << (memory == WeightMemory::kCopiedUncached ? "dropped" : "kept")
                << " --weights=" << weights << " bytes=" << bytes
                << " available_bytes=" << available;
  return memory;
}

absl::Status CheckDeviceMemory(int64_t available_bytes, std::span<const MemoryNeed> needs) {
  int64_t total = 0;
  std::string list;
  for (const MemoryNeed& need : needs) {
    total += need.bytes;
    absl::StrAppend(&list, list.empty() ? "" : ", ", need.what, " ", need.bytes >> 20, " MiB");
  }
  const int64_t usable_bytes = available_bytes - available_bytes / 16;
  if (total <= usable_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the device has ", usable_bytes >> 20,
                                                 " MiB of memory to give, wanted ", total >> 20,
                                                 " MiB: ", list));
}

PrefetchProgress LogLoading(std::function<bool()> is_stopped) {
  const absl::Time begin = absl::Now();
  return [is_stopped = std::move(is_stopped), begin, next_line = begin + kLogPeriod](
             int64_t done_bytes, int64_t total_bytes) mutable {
    const absl::Time now = absl::Now();
    const bool is_end = done_bytes == total_bytes;
    if (is_end || now >= next_line) {
      const double seconds = absl::ToDoubleSeconds(now - begin);
      M1_LOG(kInfo) << "event=" << (is_end ? "loaded" : "loading") << " done_bytes=" << done_bytes
                    << " total_bytes=" << total_bytes
                    << absl::StrFormat(" seconds=%.3f gb_per_second=%.2f", seconds,
                                       static_cast<double>(done_bytes) / 1e9 / seconds);
      next_line = now + kLogPeriod;
    }
    return !is_stopped();
  };
}

}  // namespace m1
