#include "tests/bench/gpu_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include <nlohmann/json.hpp>

namespace m1 {
namespace {

constexpr double kGiga = 1e9;
constexpr double kTera = 1e12;

const char* Name(cuda::PeakKind kind) {
  switch (kind) {
    case cuda::PeakKind::kBf16:
      return "bf16 mma";
    case cuda::PeakKind::kInt8:
      return "int8 mma";
    case cuda::PeakKind::kFloat:
      return "fp32 fma";
  }
  return "";
}

double BandwidthPercent(const GpuFigure& figure, const GpuCeilings& ceilings) {
  return 100 * figure.bytes_per_s() / ceilings.bytes_per_s();
}
double PeakPercent(const GpuFigure& figure, const GpuCeilings& ceilings) {
  return 100 * figure.operations_per_s() / ceilings.operations_per_s(figure.work.kind);
}

}  // namespace

GpuCeilings BestOf(const GpuCeilings& a, const GpuCeilings& b) {
  return {.copy_bytes_per_s = std::max(a.copy_bytes_per_s, b.copy_bytes_per_s),
          .read_bytes_per_s = std::max(a.read_bytes_per_s, b.read_bytes_per_s),
          .bf16_per_s = std::max(a.bf16_per_s, b.bf16_per_s),
          .int8_per_s = std::max(a.int8_per_s, b.int8_per_s),
          .float_per_s = std::max(a.float_per_s, b.float_per_s)};
}

std::vector<std::string> ImpossibleFigures(const GpuReport& report) {
  std::vector<std::string> impossible;
  for (const GpuFigure& figure : report.figures) {
    const double share = figure.share(report.ceilings);
    if (share <= 1.0) continue;
    impossible.push_back(absl::StrFormat("%s %s: %.1f %% of what the GPU can do", figure.op,
                                         figure.size, 100 * share));
  }
  return impossible;
}

std::string TableOf(const GpuReport& report) {
  const GpuCeilings& c = report.ceilings;
  std::string table = absl::StrFormat(
      "%s, sm_%d, %d multiprocessors\n"
      "copy %.0f GB/s, read %.0f GB/s, bf16 mma.sync %.0f, int8 mma.sync %.0f, fp32 fma %.1f "
      "T/s\n\n",
      report.gpu.name, report.gpu.capability, report.gpu.multiprocessors,
      c.copy_bytes_per_s / kGiga, c.read_bytes_per_s / kGiga, c.bf16_per_s / kTera,
      c.int8_per_s / kTera, c.float_per_s / kTera);
  absl::StrAppendFormat(&table, "%-18s %-42s %10s %8s %6s %8s %6s  %s\n", "operation", "size", "us",
                        "GB/s", "%", "T/s", "%", "of");
  for (const GpuFigure& figure : report.figures) {
    absl::StrAppendFormat(&table, "%-18s %-42s %10.2f %8.0f %6.1f %8.2f %6.1f  %s\n", figure.op,
                          figure.size, 1e6 * figure.seconds, figure.bytes_per_s() / kGiga,
                          BandwidthPercent(figure, c), figure.operations_per_s() / kTera,
                          PeakPercent(figure, c),
                          figure.work.operations > 0 ? Name(figure.work.kind) : "");
  }
  absl::StrAppendFormat(&table, "\n%-27s %6s %10s %12s\n", "layer pair, int8", "rows", "ms",
                        "tokens/s");
  for (const LayerPairFigure& figure : report.layer_pair) {
    absl::StrAppendFormat(&table, "%-27s %6d %10.3f %12.1f\n", figure.phase, figure.rows,
                          1e3 * figure.seconds, figure.tokens_per_s());
  }
  for (const std::string& error : report.errors) absl::StrAppend(&table, "error: ", error, "\n");
  return table;
}

std::string JsonOf(const GpuReport& report) {
  const GpuCeilings& c = report.ceilings;
  nlohmann::json json;
  json["gpu"] = {{"name", report.gpu.name},
                 {"compute_capability", report.gpu.capability},
                 {"multiprocessors", report.gpu.multiprocessors}};
  json["ceilings"] = {{"copy_gb_per_s", c.copy_bytes_per_s / kGiga},
                      {"read_gb_per_s", c.read_bytes_per_s / kGiga},
                      {"bf16_mma_tera_per_s", c.bf16_per_s / kTera},
                      {"int8_mma_tera_per_s", c.int8_per_s / kTera},
                      {"fp32_fma_tera_per_s", c.float_per_s / kTera}};
  json["kernels"] = nlohmann::json::array();
  for (const GpuFigure& figure : report.figures) {
    json["kernels"].push_back({{"op", figure.op},
                               {"size", figure.size},
                               {"us", 1e6 * figure.seconds},
                               {"gb_per_s", figure.bytes_per_s() / kGiga},
                               {"bandwidth_percent", BandwidthPercent(figure, c)},
                               {"tera_per_s", figure.operations_per_s() / kTera},
                               {"peak", Name(figure.work.kind)},
                               {"peak_percent", PeakPercent(figure, c)}});
  }
  json["layer_pair"] = nlohmann::json::array();
  for (const LayerPairFigure& figure : report.layer_pair) {
    json["layer_pair"].push_back({{"phase", figure.phase},
                                  {"rows", figure.rows},
                                  {"ms", 1e3 * figure.seconds},
                                  {"tokens_per_s", figure.tokens_per_s()}});
  }
  json["errors"] = report.errors;
  return json.dump(2);
}

}  // namespace m1
