#include "tests/bench/gpu_bench.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "tools/bench/median.h"

namespace m1 {
namespace {

constexpr int64_t kLeadBytes = int64_t{512} << 20;

absl::Status ToStatus(cuda::LaunchError error) {
  if (error == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("GPU: ", cuda::ErrorName(error)));
}

double Best(const std::vector<double>& seconds) {
  return *std::min_element(seconds.begin(), seconds.end());
}

int64_t LeadBytes(const GpuBenchOptions& options) {
  return std::min(kLeadBytes, options.ceiling_bytes);
}

}  // namespace

double GpuCeilings::operations_per_s(cuda::PeakKind kind) const {
  switch (kind) {
    case cuda::PeakKind::kBf16:
      return bf16_per_s;
    case cuda::PeakKind::kInt8:
      return int8_per_s;
    case cuda::PeakKind::kFloat:
      return float_per_s;
  }
  return 0.0;
}

double GpuFigure::share(const GpuCeilings& ceilings) const {
  return std::max(bytes_per_s() / ceilings.bytes_per_s(),
                  operations_per_s() / ceilings.operations_per_s(work.kind));
}

absl::StatusOr<std::unique_ptr<GpuBench>> GpuBench::Create(const GpuBenchOptions& options,
                                                           OnFigure on_figure) {
  cuda::Stream stream = nullptr;
  M1_RETURN_IF_ERROR(ToStatus(cuda::OpenStream(&stream)));
  auto backend = std::make_unique<cuda::CudaKernelBackend>(stream, nullptr);
  cuda::GpuDescription gpu;
  M1_RETURN_IF_ERROR(ToStatus(cuda::DescribeGpu(&gpu)));
  const int64_t wanted = options.weight_bytes + options.result_bytes + 2 * LeadBytes(options);
  if (backend->AvailableBytes() < wanted) {
    return absl::ResourceExhaustedError(absl::StrCat("the GPU has ", backend->AvailableBytes(),
                                                     " bytes of memory free, want ", wanted));
  }
  return std::unique_ptr<GpuBench>(
      new GpuBench(options, std::move(on_figure), stream, gpu, std::move(backend)));
}

GpuBench::GpuBench(const GpuBenchOptions& options, OnFigure on_figure, cuda::Stream stream,
                   const cuda::GpuDescription& gpu, std::unique_ptr<KernelBackend> backend)
    : options_(options),
      on_figure_(std::move(on_figure)),
      stream_(stream),
      gpu_(gpu),
      backend_(std::move(backend)),
      timer_(backend_.get(), stream, LeadBytes(options)),
      weights_(backend_.get(), options.weight_bytes),
      results_(backend_.get(), options.result_bytes) {
  weights_.Fill(backend_.get());
}

GpuCeilings GpuBench::MeasureCeilings() {
  constexpr int kBlocksEach = 8;  // 2048 threads of a multiprocessor
  const int32_t blocks = kBlocksEach * gpu_.multiprocessors;
  const auto best = [this](absl::FunctionRef<cuda::LaunchError()> launch) {
    return Best(timer_.Measure(2, options_.repeats, [&] { return ToStatus(launch()); }));
  };
  GpuCeilings ceilings;
  const int64_t bytes = options_.ceiling_bytes;
  const double copied = best([&] {
    return cuda::CopyOnDevice(results_.Next(DType::kI8, {bytes}).data(),
                              weights_.Next(DType::kI8, {bytes}).data(), static_cast<size_t>(bytes),
                              stream_);
  });
  ceilings.copy_bytes_per_s = 2 * static_cast<double>(bytes) / copied;

  Tensor out = backend_->NewTensor(DType::kF32, {blocks, cuda::kMeasureThreads});
  cuda::ReadArgs read{.out = static_cast<uint32_t*>(out.view().data()),
                      .count = bytes / static_cast<int64_t>(sizeof(cuda::Words4)),
                      .blocks = blocks};
  const double read_seconds = best([&] {
    read.x = static_cast<const cuda::Words4*>(weights_.Next(DType::kI8, {bytes}).data());
    return cuda::LaunchReadAll(read, stream_);
  });
  ceilings.read_bytes_per_s = static_cast<double>(bytes) / read_seconds;

  const cuda::PeakArgs peak{
      .out = out.data_as<float>(), .blocks = blocks, .steps = options_.peak_steps};
  const auto rate = [&](cuda::PeakKind kind) {
    return cuda::PeakOperations(kind, peak) /
           best([&] { return cuda::LaunchPeak(kind, peak, stream_); });
  };
  ceilings.bf16_per_s = rate(cuda::PeakKind::kBf16);
  ceilings.int8_per_s = rate(cuda::PeakKind::kInt8);
  ceilings.float_per_s = rate(cuda::PeakKind::kFloat);
  return ceilings;
}

void GpuBench::Run(const ModelConfig& config) {
  config_ = config;
  for (const std::vector<int64_t>& some : {options_.decode_rows, options_.prefill_rows}) {
    for (const int64_t rows : some) {
      RunDense(rows);
      RunAttention(rows);
      RunVocab(rows);
    }
  }
}

bool GpuBench::IsDecode(int64_t rows) const {
  return std::count(options_.decode_rows.begin(), options_.decode_rows.end(), rows) > 0;
}

std::vector<SequenceRows> GpuBench::Sequences(int64_t rows, int64_t first_position) const {
  if (!IsDecode(rows)) return {{0, rows, first_position}};
  std::vector<SequenceRows> sequences;
  for (int64_t row = 0; row < rows; ++row) sequences.push_back({row, 1, first_position});
  return sequences;
}

MatrixView GpuBench::Weights(MatrixFormat format, int64_t n, int64_t k) {
  switch (format) {
    case MatrixFormat::kInt8: {
      const ConstTensorView values = weights_.Next(DType::kI8, {n, k});
      return {values, weights_.Next(DType::kF32, {n})};
    }
    case MatrixFormat::kInt4: {
      const ConstTensorView values = weights_.Next(DType::kU8, {n, k / 2});
      return {values, weights_.Next(DType::kBf16, {n, k / std::min<int64_t>(k, 64)})};
    }
    case MatrixFormat::kPlain:
      break;
  }
  return weights_.Next(DType::kBf16, {n, k});
}

void GpuBench::Report(const std::string& op, const std::string& size, const GpuWork& work,
                      absl::FunctionRef<absl::Status()> call) {
  on_figure_({op, size, work, Median(timer_.Measure(options_.calls, options_.repeats, call))});
}

}  // namespace m1
