// Every operation of KernelBackend at a model's sizes, each against what the machine allows:
//   bound = max(memory bytes / read rate + cached bytes / cache rate,
//               bf16 pair flops / pair rate + fp32 flops / fp32 rate).
// Weights, states and keys come from memory: each call takes other ones. Rows of activations come
// from the first-level cache, where the operation before has left them if they are few. Limits are
// measured before and after each case.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

#include "common/kernels/backend.h"
#include "common/model/config.h"
#include "common/tensor/tensor.h"
#include "tools/bench/machine_limits.h"

namespace m1 {

// What a call reads, writes and multiplies at least.
struct OpWork {
  double memory_bytes = 0;
  double cached_bytes = 0;  // read; cores write beside reading
  double pair_flops = 0;
  double fp32_flops = 0;
};

struct OpFigure {
  std::string op;    // the method's name
  std::string size;  // for people
  OpWork work;
  MachineLimits limits;  // the better of before and after
  double seconds = 0;    // of the median call

  double bound_seconds() const;
  double ratio() const { return bound_seconds() / seconds; }
  // Faster than possible: a limit was measured too low, and the run says nothing.
  bool is_void() const { return ratio() > 1; }
};

struct OpBenchOptions {
  int num_threads = 1;
  std::string cpu_target;  // "": the best
  double seconds_per_case = 0.1;
  std::vector<int64_t> rows = {
      1, 32, 512};         // up to 64: decode, that many sequences; above: prefill of one
  int64_t context = 1024;  // keys before the rows
  int64_t pool_bytes = int64_t{512} << 20;  // what weights are taken from in turn
  std::string only;                         // substring of the op's name; "": all
};

class OpBench {
 public:
  using OnFigure = std::function<void(const OpFigure&)>;

  // Errors: those of CreateCpuBackend.
  static absl::StatusOr<std::unique_ptr<OpBench>> Create(const OpBenchOptions& options,
                                                         OnFigure on_figure);

  // All operations at the sizes of `config` in bf16.
  void Run(const ModelConfig& config);
  std::string backend_name() const { return backend_->name(); }

 private:
  OpBench(const OpBenchOptions& options, OnFigure on_figure,
          std::unique_ptr<KernelBackend> backend);

  // Memory that was not used for a while, finite whatever the type.
  TensorView Cold(DType dtype, const Shape& shape);
  static Tensor Filled(DType dtype, const Shape& shape);
  void Report(const std::string& op, const std::string& size, const OpWork& work,
              absl::FunctionRef<absl::Status()> call);

  // op_bench_dense.cc
  void RunDense(int64_t rows);
  void Linear(const std::string& name, int64_t rows, int64_t in, int64_t out, DType x_dtype,
              DType w_dtype);
  void GatedUp(int64_t rows);
  void ExpertFfn(int64_t rows);
  void Elementwise(int64_t rows);
  void Gate(int64_t rows);
  // op_bench_attention.cc
  void RunAttention(int64_t rows);
  void Rotary(int64_t rows);
  void AppendKv(int64_t rows);
  void Softmax(int64_t rows);
  void Lightning(int64_t rows);
  void RunVocab(int64_t rows);

  // How `rows` rows belong to sequences.
  std::vector<SequenceRows> Sequences(int64_t rows, int64_t first_position) const;

  const OpBenchOptions options_;
  const OnFigure on_figure_;
  const std::unique_ptr<KernelBackend> backend_;
  LimitsProbe probe_;
  MachineLimits limits_;  // measured last
  Tensor pool_;
  int64_t pool_next_ = 0;
  ModelConfig config_;
};

}  // namespace m1
