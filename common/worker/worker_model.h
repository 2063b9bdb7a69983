// What attention and expert workers do alike at start: check the flags they share, open the
// checkpoint, choose kernels, and say who they are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/exchange/identity.h"
#include "common/kernels/backend.h"
#include "common/kernels/device_fault.h"
#include "common/kernels/model_shape.h"
#include "common/model/checkpoint.h"
#include "common/model/config.h"
#include "common/model/prefetch.h"
#include "common/tensor/dtype.h"

namespace m1 {

struct WorkerModelOptions {
  std::string directory;                  // --model: the checkpoint
  std::string activation_dtype = "auto";  // "bf16", "fp32"; "auto": that of the checkpoint
  int32_t threads = 0;                    // compute threads; 0: one per core
  std::string device = "cpu";             // --device: "cpu", "cuda"
  std::string cpu_target;                 // instruction set; "": the best of this machine
  std::string weights = "auto";           // "copy", "mmap"; see ChooseWeightMemory
  bool pin = false;                       // compute thread i stays on the ith core we may use
};

// Errors: InvalidArgument naming the flag, its value and what it may be.
absl::Status Validate(const WorkerModelOptions& options);

struct WorkerModel {
  std::unique_ptr<Checkpoint> checkpoint;
  DType activation_dtype = DType::kBf16;
  std::unique_ptr<KernelBackend> backend;
  WorkerIdentity identity;
};

// `options` are valid. A device that fails is told to `on_fault`, which may be null. Errors:
// InvalidArgument naming a flag; DataLoss or NotFound for whatever is wrong with the files.
absl::StatusOr<WorkerModel> OpenWorkerModel(const WorkerModelOptions& options,
                                            DeviceFaultHandler on_fault = nullptr);

// What of a model KernelBackend::CheckModel looks at.
ModelShape ModelShapeOf(const ModelConfig& config);

// Kernels as the flags want them. Errors: InvalidArgument naming --device or --cpu_target; or
// --pin, when there are more threads than cores that this process may use.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateBackend(const WorkerModelOptions& options,
                                                             DeviceFaultHandler on_fault = nullptr);

// Where `bytes` of weights shall lie by --weights. "auto": in copies, if these take at most half of
// the memory that the system and its limit for this process allow: others may load beside us, and
// the files stay in the page cache for those that start next. "copy": in copies; if they take more
// than that half the page cache keeps nothing, so that memory never holds the weights twice. Logs
// the choice. A device has copies of its own: with one the files' pages are only passed through.
// `options` are valid. Errors: InvalidArgument naming --weights, when copies take more memory than
// there is.
absl::StatusOr<WeightMemory> ChooseWeightMemory(const WorkerModelOptions& options, int64_t bytes);

// What a worker asks of a device's memory, and which flag says how much.
struct MemoryNeed {
  std::string what;
  int64_t bytes = 0;
};

// A sixteenth of `available_bytes` is left to what operations need beside. Errors: InvalidArgument
// naming all needs, when they take more than the rest.
absl::Status CheckDeviceMemory(int64_t available_bytes, std::span<const MemoryNeed> needs);

// Logs every two seconds how far loading is, and its end, with seconds since this call and GB/s
// (1e9). Loading ends with Cancelled once `is_stopped`.
PrefetchProgress LogLoading(std::function<bool()> is_stopped);

}  // namespace m1
