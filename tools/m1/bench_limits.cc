// m1 bench limits: read and multiply rates of this machine, and what a model could do with them.
#include <cstdio>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "common/base/flag_checks.h"
#include "common/base/status_macros.h"
#include "common/model/config.h"
#include "tools/bench/machine_limits.h"
#include "tools/bench/model_cost.h"
#include "tools/m1/bench_commands.h"
#include "tools/m1/flag_set.h"

namespace m1 {
namespace {

struct Load {
  std::string name;
  ForwardRows rows;
};

std::vector<Load> Loads(int64_t context) {
  std::vector<Load> loads;
  for (const int64_t streams : {1, 8, 32}) {
    loads.push_back({absl::StrCat("decode_", streams),
                     {.num_sequences = streams, .rows_each = 1, .context_each = context}});
  }
  for (const int64_t tokens : {512, 2048, 8192}) {
    loads.push_back({absl::StrCat("prefill_", tokens), {.num_sequences = 1, .rows_each = tokens}});
  }
  return loads;
}

nlohmann::ordered_json LimitsJson(const MachineLimits& limits) {
  return {{"threads", limits.num_threads},
          {"read_gb_per_s", limits.read_bytes_per_s * 1e-9},
          {"cache_gb_per_s", limits.cache_bytes_per_s * 1e-9},
          {"fp32_gflops", limits.fp32_flops_per_s * 1e-9},
          {"bf16_gflops", limits.pair_flops_per_s * 1e-9},
          {"read_loop", limits.read_loop}};
}

void PrintLimits(const MachineLimits& limits) {
  std::printf(
      "%3d threads: read %6.1f GB/s (%s), first-level cache %6.0f GB/s, fp32 %6.0f GFLOP/s, bf16 "
      "pairs %6.0f GFLOP/s\n",
      limits.num_threads, limits.read_bytes_per_s * 1e-9, limits.read_loop.c_str(),
      limits.cache_bytes_per_s * 1e-9, limits.fp32_flops_per_s * 1e-9,
      limits.pair_flops_per_s * 1e-9);
}

// Prints the parts of each load with their formulas, unless `quiet`; returns {load: {tokens_per_s,
// bytes, ...}}.
nlohmann::ordered_json Bounds(const ModelConfig& config, const MachineLimits& limits,
                              int64_t context, bool quiet) {
  nlohmann::ordered_json bounds;
  for (const Load& load : Loads(context)) {
    const std::vector<CostPart> parts = ForwardCost(config, load.rows);
    const CostPart total = TotalOf(parts);
    const double seconds = BoundSeconds(total, limits.read_bytes_per_s, limits.pair_flops_per_s,
                                        limits.fp32_flops_per_s);
    const double fp32_only_s = BoundSeconds(total, limits.read_bytes_per_s, limits.fp32_flops_per_s,
                                            limits.fp32_flops_per_s);
    const auto tokens = static_cast<double>(load.rows.num_sequences * load.rows.rows_each);
    bounds[load.name] = {{"tokens_per_s", tokens / seconds},
                         {"tokens_per_s_fp32", tokens / fp32_only_s},
                         {"bytes", total.bytes},
                         {"pair_flops", total.pair_flops},
                         {"fp32_flops", total.fp32_flops}};
    if (quiet) continue;
    std::printf(
        "%s: at most %.1f tokens/s; %.1f MB and %.2f GFLOP a pass of %.0f tokens (with fp32 "
        "products alone: %.1f tokens/s)\n",
        load.name.c_str(), tokens / seconds, total.bytes * 1e-6,
        (total.pair_flops + total.fp32_flops) * 1e-9, tokens, tokens / fp32_only_s);
    for (const CostPart& part : parts) {
      std::printf("    %-10s %9.1f MB %9.2f GFLOP   %s\n", part.name.c_str(), part.bytes * 1e-6,
                  (part.pair_flops + part.fp32_flops) * 1e-9, part.formula.c_str());
    }
  }
  return bounds;
}

}  // namespace

absl::Status BenchLimits(const std::vector<std::string>& args) {
  int threads = 0;
  int context = 128;
  std::optional<float> seconds;
  std::string model;
  std::string cpu_target;
  bool json = false;
  FlagSet set(
      "bench limits",
      "how fast this machine reads memory and multiplies right now: the best of several loops, at "
      "1, 2, 4, ...\n"
      "threads. With --model also the bytes and operations of a pass, and the tokens a second they "
      "allow:\n"
      "tokens / max(bytes / read, bf16 operations / bf16 rate + fp32 operations / fp32 rate).");
  set.Int("threads", &threads, "measure this number of threads alone (1, 2, 4, ... and all cores)");
  set.Float("seconds", &seconds, "for each loop, > 0 (0.2)");
  set.String("model", &model, "directory with a config.json");
  set.Int("context", &context, "tokens before each decoded one, 0 or more (128)");
  set.String("cpu_target", &cpu_target,
             "instruction set whose multiplications count (all that the machine has)");
  set.Bool("json", &json, "print one JSON object");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_RETURN_IF_ERROR(CheckFlagRange("threads", threads, 0, 1024));
  M1_RETURN_IF_ERROR(CheckFlagRange("context", context, 0, 1 << 24));
  M1_ASSIGN_OR_RETURN(const double loop_seconds, SecondsFlag(seconds, 0.2));
  ModelConfig config;
  if (!model.empty()) {
    M1_ASSIGN_OR_RETURN(config, LoadModelConfig(model));
  }

  const int cores = NumCores();
  std::vector<int> counts;
  for (int count = 1; count < cores && threads == 0; count *= 2) counts.push_back(count);
  counts.push_back(threads == 0 ? cores : threads);
  nlohmann::ordered_json result = {{"limits", nlohmann::json::array()}};
  MachineLimits limits;
  for (const int count : counts) {
    limits = LimitsProbe(count, cpu_target).Measure(loop_seconds);
    if (!json) PrintLimits(limits);
    result["limits"].push_back(LimitsJson(limits));
  }
  if (limits.fp32_flops_per_s == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cpu_target is \"", cpu_target, "\", which this machine cannot run"));
  }
  if (!model.empty()) result["bounds"] = Bounds(config, limits, context, json);
  if (json) std::cout << result.dump() << "\n";
  return absl::OkStatus();
}

}  // namespace m1
