// Every kernel of CudaKernelBackend at a model's sizes, beside what the GPU can do at most.
// Operands come in turn from more memory than any cache holds. Aborts on errors of the device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/kernels/cuda/measure.h"
#include "common/model/config.h"
#include "tests/bench/gpu_memory.h"
#include "tests/bench/gpu_timer.h"

namespace m1 {

// The best of several measurements each.
struct GpuCeilings {
  double copy_bytes_per_s = 0;  // read and written, by the device's own copy
  double read_bytes_per_s = 0;
  double bf16_per_s = 0;  // operations of a loop of mma.sync
  double int8_per_s = 0;
  double float_per_s = 0;  // of fused multiply-adds

  double bytes_per_s() const { return std::max(copy_bytes_per_s, read_bytes_per_s); }
  double operations_per_s(cuda::PeakKind kind) const;
};

// What a call reads, writes and multiplies at least.
struct GpuWork {
  double bytes = 0;
  double operations = 0;
  cuda::PeakKind kind = cuda::PeakKind::kBf16;
};

struct GpuFigure {
  std::string op;
  std::string size;  // for people
  GpuWork work;
  double seconds = 0;  // of the median call

  double bytes_per_s() const { return work.bytes / seconds; }
  double operations_per_s() const { return work.operations / seconds; }
  // Of the ceilings, the larger one; above 1 something was measured wrongly.
  double share(const GpuCeilings& ceilings) const;
};

struct GpuBenchOptions {
  std::vector<int64_t> decode_rows = {1, 8, 32};  // of as many sequences
  std::vector<int64_t> prefill_rows = {512, 2048};
  int64_t context = 4096;                    // keys before a decode row
  int64_t weight_bytes = int64_t{24} << 30;  // read in turn
  int64_t result_bytes = int64_t{4} << 30;   // written in turn
  int64_t ceiling_bytes = int64_t{1} << 30;  // of a copy, or read
  int32_t peak_steps = 20'000;
  int calls = 8;  // of a measurement
  int repeats = 9;
};

class GpuBench {
 public:
  using OnFigure = std::function<void(const GpuFigure&)>;

  // Errors: Internal naming CUDA's error, ResourceExhausted for a GPU with too little memory.
  static absl::StatusOr<std::unique_ptr<GpuBench>> Create(const GpuBenchOptions& options,
                                                          OnFigure on_figure);

  GpuCeilings MeasureCeilings();
  // All operations in bf16, products also in int8 and int4.
  void Run(const ModelConfig& config);

  KernelBackend& backend() { return *backend_; }
  cuda::Stream stream() const { return stream_; }
  GpuMemory& weights() { return weights_; }
  const cuda::GpuDescription& gpu() const { return gpu_; }

 private:
  GpuBench(const GpuBenchOptions& options, OnFigure on_figure, cuda::Stream stream,
           const cuda::GpuDescription& gpu, std::unique_ptr<KernelBackend> backend);

  void Report(const std::string& op, const std::string& size, const GpuWork& work,
              absl::FunctionRef<absl::Status()> call);
  bool IsDecode(int64_t rows) const;
  // The rows' sequences at so many keys before them.
  std::vector<SequenceRows> Sequences(int64_t rows, int64_t first_position) const;
  // An [n, k] matrix of the format; int4 in groups of 64.
  MatrixView Weights(MatrixFormat format, int64_t n, int64_t k);

  // gpu_bench_dense.cc
  void RunDense(int64_t rows);
  void Linear(const std::string& name, int64_t rows, int64_t k, int64_t n, DType x_type,
              MatrixFormat format);
  void Gate(int64_t rows);
  void ExpertFfn(int64_t rows, MatrixFormat format);
  void Elementwise(int64_t rows);

  // gpu_bench_attention.cc
  void RunAttention(int64_t rows);
  void Rotary(int64_t rows);
  void AppendKv(int64_t rows);
  void Softmax(int64_t rows);
  void Lightning(int64_t rows);

  // gpu_bench_vocab.cc
  void RunVocab(int64_t rows);
  void LogSumExp(int64_t rows);
  void Draw(int64_t rows, const std::string& what, float temperature, float top_p);
  void Score(int64_t rows);

  const GpuBenchOptions options_;
  const OnFigure on_figure_;
  const cuda::Stream stream_;  // the backend's
  const cuda::GpuDescription gpu_;
  const std::unique_ptr<KernelBackend> backend_;
  GpuTimer timer_;
  GpuMemory weights_;
  GpuMemory results_;
  ModelConfig config_;
};

}  // namespace m1
