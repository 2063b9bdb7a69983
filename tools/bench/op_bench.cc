#include "tools/bench/op_bench.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"
#include "tools/bench/median.h"

namespace m1 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kProbeSeconds = 0.01;
constexpr double kSecondsPerTiming = 50e-6;
constexpr Bf16 kFill = 0x3c80;  // 1/64; two of them are a normal fp32 near it

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

double OpFigure::bound_seconds() const {
  return std::max(
      work.memory_bytes / limits.read_bytes_per_s + work.cached_bytes / limits.cache_bytes_per_s,
      work.pair_flops / limits.pair_flops_per_s + work.fp32_flops / limits.fp32_flops_per_s);
}

absl::StatusOr<std::unique_ptr<OpBench>> OpBench::Create(const OpBenchOptions& options,
                                                         OnFigure on_figure) {
  auto backend =
      CreateCpuBackend({.num_threads = options.num_threads, .target = options.cpu_target});
  if (!backend.ok()) return backend.status();
  return std::unique_ptr<OpBench>(new OpBench(options, std::move(on_figure), *std::move(backend)));
}

OpBench::OpBench(const OpBenchOptions& options, OnFigure on_figure,
                 std::unique_ptr<KernelBackend> backend)
    : options_(options),
      on_figure_(std::move(on_figure)),
      backend_(std::move(backend)),
      probe_(options.num_threads, options.cpu_target),
      pool_(Filled(DType::kBf16, {options.pool_bytes / 2})) {}

void OpBench::Run(const ModelConfig& config) {
  config_ = config;
  limits_ = probe_.Measure(kProbeSeconds);
  for (const int64_t rows : options_.rows) {
    RunDense(rows);
    RunAttention(rows);
    RunVocab(rows);
  }
}

TensorView OpBench::Cold(DType dtype, const Shape& shape) {
  const int64_t bytes = shape.num_elements() * DTypeBytes(dtype);
  M1_CHECK(bytes <= options_.pool_bytes);
  if (pool_next_ + bytes > options_.pool_bytes) pool_next_ = 0;
  const TensorView view(reinterpret_cast<std::byte*>(pool_.data_as<Bf16>()) + pool_next_, dtype,
                        shape);
  pool_next_ += (bytes + 63) / 64 * 64;
  return view;
}

Tensor OpBench::Filled(DType dtype, const Shape& shape) {
  Tensor tensor(dtype, shape);
  const int64_t words = shape.num_elements() * DTypeBytes(dtype) / 2;
  std::fill_n(static_cast<Bf16*>(tensor.view().data()), words, kFill);
  return tensor;
}

std::vector<SequenceRows> OpBench::Sequences(int64_t rows, int64_t first_position) const {
  if (rows > 64) return {{0, rows, first_position}};
  std::vector<SequenceRows> sequences;
  for (int64_t row = 0; row < rows; ++row) sequences.push_back({row, 1, first_position});
  return sequences;
}

void OpBench::Report(const std::string& op, const std::string& size, const OpWork& work,
                     absl::FunctionRef<absl::Status()> call) {
  if (op.find(options_.only) == std::string::npos) return;
  OpFigure figure{op, size, work, limits_};
  const auto time = [&](int64_t calls) {
    const Clock::time_point begin = Clock::now();
    for (int64_t i = 0; i < calls; ++i) {
      const absl::Status status = call();
      M1_CHECK(status.ok());
    }
    return Seconds(Clock::now() - begin) / static_cast<double>(calls);
  };
  const double first = time(1);
  const auto calls = std::max(int64_t{1}, static_cast<int64_t>(kSecondsPerTiming / first));
  const Clock::time_point begin = Clock::now();
  std::vector<double> timings;
  do {
    timings.push_back(time(calls));
  } while (Seconds(Clock::now() - begin) < options_.seconds_per_case);
  figure.seconds = Median(std::move(timings));
  limits_ = probe_.Measure(kProbeSeconds);
  figure.limits = BestOf(figure.limits, limits_);
  on_figure_(figure);
}

}  // namespace m1
