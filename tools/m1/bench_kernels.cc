// m1 bench kernels: every operation against the machine's limits.
#include <cstdio>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "common/base/flag_checks.h"
#include "common/base/status_macros.h"
#include "common/model/config.h"
#include "tools/bench/op_bench.h"
#include "tools/m1/bench_commands.h"
#include "tools/m1/flag_set.h"

namespace m1 {
namespace {

ModelConfig FullSize() {
  ModelConfig config;
  config.hidden_size = 6144;
  config.num_heads = 64;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.rotary_dim = 64;
  config.num_experts = 32;
  config.num_experts_per_token = 2;
  config.expert_intermediate_size = 9216;
  config.vocab_size = 200064;
  return config;
}

void PrintFigure(const OpFigure& figure) {
  std::printf("  %-20s %-38s %10.2f us  bound %10.2f us  %5.1f %%%s\n", figure.op.c_str(),
              figure.size.c_str(), figure.seconds * 1e6, figure.bound_seconds() * 1e6,
              100 * figure.ratio(), figure.is_void() ? "  VOID: above its bound" : "");
  std::fflush(stdout);
}

nlohmann::ordered_json FigureJson(const std::string& sizes, const OpFigure& figure) {
  return {{"sizes", sizes},
          {"op", figure.op},
          {"size", figure.size},
          {"seconds", figure.seconds},
          {"bound_seconds", figure.bound_seconds()},
          {"ratio", figure.ratio()},
          {"void", figure.is_void()},
          {"read_gb_per_s", figure.limits.read_bytes_per_s * 1e-9},
          {"bf16_gflops", figure.limits.pair_flops_per_s * 1e-9},
          {"fp32_gflops", figure.limits.fp32_flops_per_s * 1e-9}};
}

}  // namespace

absl::Status BenchKernels(const std::vector<std::string>& args) {
  OpBenchOptions options;
  options.num_threads = NumCores();
  std::optional<float> seconds;
  std::string model = "models/bench";
  std::string rows = "1,32,512";
  bool full = true;
  bool json = false;
  FlagSet set(
      "bench kernels",
      "times every operation at a model's sizes and at MiniMax-M1's, each next to its bound\n"
      "max(bytes / rate, operations / rate). Limits are measured before and after each figure; a "
      "figure above its\n"
      "bound is marked and the run is void (exit code 1).");
  set.String("model", &model, "directory with a config.json (models/bench)");
  set.Bool("m1", &full, "also at MiniMax-M1's sizes (true)");
  set.Int("threads", &options.num_threads, "(all cores)");
  set.String("cpu_target", &options.cpu_target, "portable, avx2, avx512 or avx512bf16 (the best)");
  set.String("rows", &rows,
             "rows of a call; up to 64 are as many sequences, more are one prompt (1,32,512)");
  set.String("only", &options.only, "operations whose name contains this");
  set.Float("seconds", &seconds, "for each figure, > 0 (0.1)");
  set.Bool("json", &json, "print one JSON object");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_RETURN_IF_ERROR(CheckFlagRange("threads", options.num_threads, 1, 1024));
  M1_ASSIGN_OR_RETURN(options.rows, RowsFlag(rows));
  M1_ASSIGN_OR_RETURN(options.seconds_per_case, SecondsFlag(seconds, 0.1));
  M1_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model));

  int num_void = 0;
  std::string sizes;
  nlohmann::ordered_json result = {{"figures", nlohmann::json::array()}};
  const auto on_figure = [&](const OpFigure& figure) {
    num_void += figure.is_void() ? 1 : 0;
    if (!json) PrintFigure(figure);
    result["figures"].push_back(FigureJson(sizes, figure));
  };
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<OpBench> bench, OpBench::Create(options, on_figure));
  const auto run = [&](const std::string& name, const ModelConfig& of) {
    sizes = name;
    if (!json)
      std::printf("%s, %s, %d threads\n", name.c_str(), bench->backend_name().c_str(),
                  options.num_threads);
    bench->Run(of);
  };
  run(model, config);
  if (full) run("MiniMax-M1", FullSize());
  result["void"] = num_void > 0;
  result["target"] = bench->backend_name();
  result["threads"] = options.num_threads;
  if (json) std::cout << result.dump() << "\n";
  if (num_void == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("void: ", num_void, " figures above their bound; a limit was measured too low"));
}

}  // namespace m1
