// m1 bench exchange: what a round trip to an expert worker costs, by each transport.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>

#include "nlohmann/json.hpp"

#include "common/base/doorbell.h"
#include "common/base/flag_checks.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "tools/bench/exchange_bench.h"
#include "tools/m1/bench_commands.h"
#include "tools/m1/flag_set.h"

namespace m1 {
namespace {

nlohmann::ordered_json FigureJson(const ExchangeFigure& figure) {
  nlohmann::ordered_json json = {{"way", figure.way},
                                 {"rows", figure.rows},
                                 {"bytes", figure.bytes},
                                 {"p50_us", figure.p50_s * 1e6},
                                 {"p99_us", figure.p99_s * 1e6},
                                 {"gb_per_s", figure.bytes_per_s() * 1e-9}};
  if (figure.raw.empty()) return json;
  json["raw"] = figure.raw;
  json["ratio"] = figure.ratio;
  return json;
}

void PrintFigure(const ExchangeFigure& figure) {
  std::printf("%5lld rows %9lld bytes each way  %-10s  p50 %9.1f us  p99 %9.1f us  %7.2f GB/s",
              static_cast<long long>(figure.rows), static_cast<long long>(figure.bytes),
              figure.way.c_str(), figure.p50_s * 1e6, figure.p99_s * 1e6,
              figure.bytes_per_s() * 1e-9);
  if (!figure.raw.empty()) std::printf("  %.2f x %s", figure.ratio, figure.raw.c_str());
  std::printf("\n");
  std::fflush(stdout);
}

// A directory for the workers' sockets; removed at the end.
class SocketDirectory {
 public:
  SocketDirectory() : path_("/tmp/m1-bench-XXXXXX") { made_ = mkdtemp(path_.data()) != nullptr; }
  ~SocketDirectory() {
    std::error_code ignored;
    if (made_) std::filesystem::remove_all(path_, ignored);
  }
  SocketDirectory(const SocketDirectory&) = delete;
  SocketDirectory& operator=(const SocketDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

}  // namespace

absl::Status BenchExchange(const std::vector<std::string>& args) {
  ExchangeBenchOptions options;
  std::string rows = "1,4,16,64,1024";
  std::optional<absl::Duration> spin;
  bool json = false;
  FlagSet set(
      "bench exchange",
      "round trips of rows to an expert worker that computes nothing, by shared memory and by "
      "gRPC over a unix\nsocket, each beside a raw ping-pong of the same bytes between two "
      "processes (a futex over shared memory, a\nblocking unix socket). All take turns; "
      "figures are medians over the repeats. GB/s counts both ways.");
  set.String("rows", &rows, "rows of a dispatch (1,4,16,64,1024)");
  set.Int("hidden", &options.hidden_size, "bf16 elements of a row, 1 to 8192 (1024)");
  set.Int("rounds", &options.num_rounds,
          "round trips of a repeat, 10 to 1000000; large ones make fewer (2000)");
  set.Int("repeats", &options.num_repeats, "1 to 100 (5)");
  set.Bool("one_core", &options.one_core,
           "keep all processes on one core, so that wakes cost all ways the same (true)");
  set.Duration(
      "spin", &spin,
      "looking for the other end of shm before sleeping, 0 to 20us; of no use on one core (0)");
  set.Bool("json", &json, "print one JSON object");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_ASSIGN_OR_RETURN(options.rows, RowsFlag(rows));
  M1_RETURN_IF_ERROR(CheckFlagRange("hidden", options.hidden_size, 1, 8192));
  M1_RETURN_IF_ERROR(CheckFlagRange("rounds", options.num_rounds, 10, 1000000));
  M1_RETURN_IF_ERROR(CheckFlagRange("repeats", options.num_repeats, 1, 100));
  options.spin = spin.value_or(absl::ZeroDuration());
  M1_RETURN_IF_ERROR(
      CheckFlagRange("spin", options.spin, absl::ZeroDuration(), Doorbell::kMaxSpin));

  SetLogLevel(LogLevel::kError);
  const SocketDirectory directory;
  options.directory = directory.path();
  nlohmann::ordered_json result = {{"hidden", options.hidden_size},
                                   {"rounds", options.num_rounds},
                                   {"repeats", options.num_repeats},
                                   {"one_core", options.one_core},
                                   {"figures", nlohmann::json::array()}};
  M1_RETURN_IF_ERROR(BenchExchangeWays(options, [&](const ExchangeFigure& figure) {
    if (!json) PrintFigure(figure);
    result["figures"].push_back(FigureJson(figure));
  }));
  if (json) std::cout << result.dump() << "\n";
  return absl::OkStatus();
}

}  // namespace m1
