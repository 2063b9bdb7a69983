// What the kernels and a layer pair reach on this GPU:
//
//   gpu_bench [--json FILE] [--model DIR] [--experts N]
//
// Exit codes: 0; 1 when a figure is above what the GPU can do, or something failed; 77 without a
// GPU.
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"

#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/model/config.h"
#include "tests/bench/gpu_bench.h"
#include "tests/bench/gpu_layer_pair.h"
#include "tests/bench/gpu_report.h"

ABSL_FLAG(std::string, json, "", "File for the figures as JSON.");
ABSL_FLAG(std::string, model, "models/wide",
          "Directory with the config.json whose sizes are used.");
ABSL_FLAG(int32_t, experts, 32, "Experts of a layer instead of the config's.");

namespace m1 {
namespace {

constexpr int kNoGpu = 77;

// Decode of a layer pair with each kernel as a launch of its own.
absl::StatusOr<std::vector<LayerPairFigure>> MeasureWithoutGraphs(const ModelConfig& config,
                                                                  GpuMemory* weights) {
  cuda::Stream stream = nullptr;
  if (const cuda::LaunchError error = cuda::OpenStream(&stream); error != 0) {
    return absl::InternalError(cuda::ErrorName(error));
  }
  cuda::CudaKernelBackend backend(stream, nullptr, /*max_graphs=*/0);
  return MeasureLayerPair(config, &backend, stream, weights, {.prefill_rows = {}});
}

// The figures so far are kept when something fails.
absl::Status Measure(const ModelConfig& config, GpuBench& bench, GpuReport* report) {
  report->gpu = bench.gpu();
  report->ceilings = bench.MeasureCeilings();
  bench.Run(config);
  report->ceilings = BestOf(report->ceilings, bench.MeasureCeilings());
  auto pair = MeasureLayerPair(config, &bench.backend(), bench.stream(), &bench.weights(), {});
  if (!pair.ok()) return pair.status();
  report->layer_pair = *std::move(pair);
  auto without = MeasureWithoutGraphs(config, &bench.weights());
  if (!without.ok()) return without.status();
  for (LayerPairFigure& figure : *without) {
    figure.phase += ", no graphs";
    report->layer_pair.push_back(std::move(figure));
  }
  return absl::OkStatus();
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "gpu_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Run() {
  size_t bytes = 0;
  if (const cuda::LaunchError error = cuda::AvailableDeviceBytes(&bytes); error != 0) {
    std::fprintf(stderr, "gpu_bench: no GPU: %s\n", cuda::ErrorName(error));
    return kNoGpu;
  }
  auto config = LoadModelConfig(absl::GetFlag(FLAGS_model));
  if (!config.ok()) return Fail(config.status());
  config->num_experts = absl::GetFlag(FLAGS_experts);
  if (config->num_experts < config->num_experts_per_token || config->num_experts > 1024) {
    return Fail(absl::InvalidArgumentError("--experts: want what a token uses, up to 1024"));
  }
  GpuReport report;
  auto bench = GpuBench::Create({}, [&report](const GpuFigure& figure) {
    report.figures.push_back(figure);
    std::fprintf(stderr, "%s %s\n", figure.op.c_str(), figure.size.c_str());
  });
  if (!bench.ok()) return Fail(bench.status());
  const absl::Status status = Measure(*config, **bench, &report);
  report.errors = ImpossibleFigures(report);
  if (!status.ok()) report.errors.emplace_back(status.message());
  std::fputs(TableOf(report).c_str(), stdout);
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream file(path, std::ios::trunc);
    file << JsonOf(report) << "\n";
    file.close();
    if (!file.good()) return Fail(absl::InternalError("--json: cannot write " + path));
  }
  return report.errors.empty() ? 0 : 1;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return m1::Run();
}
