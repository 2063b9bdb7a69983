// m1 bench: chooses what is measured.
#include <algorithm>
#include <iostream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "tools/m1/bench_commands.h"
#include "tools/m1/commands.h"

namespace m1 {
namespace {

struct Action {
  const char* name;
  absl::Status (*run)(const std::vector<std::string>& args);
  const char* summary;
};

constexpr Action kActions[] = {
    {"limits", BenchLimits, "what this machine can do now, and what a model could do on it"},
    {"kernels", BenchKernels, "every operation against those limits"},
    {"exchange", BenchExchange, "round trips to an expert worker, by each transport"},
    {"serve", BenchServe, "load on a running cluster: latencies and throughput"},
};

absl::Status Run(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h") {
    std::cout << "usage: m1 bench ACTION [flags]      m1 bench ACTION --help lists the flags\n\n";
    for (const Action& action : kActions) {
      std::cout << "  " << action.name << std::string(10 - std::string(action.name).size(), ' ')
                << action.summary << "\n";
    }
    return absl::OkStatus();
  }
  for (const Action& action : kActions) {
    if (args[0] == action.name)
      return action.run(std::vector<std::string>(args.begin() + 1, args.end()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no action \"", args[0], "\", wanted limits, kernels, exchange or serve"));
}

}  // namespace

int NumCores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

absl::StatusOr<double> SecondsFlag(std::optional<float> value, double otherwise) {
  if (!value) return otherwise;
  if (*value > 0 && *value <= 60) return *value;
  return absl::InvalidArgumentError(
      absl::StrCat("--seconds is ", *value, ", wanted above 0, at most 60"));
}

absl::StatusOr<std::vector<int64_t>> RowsFlag(const std::string& text) {
  std::vector<int64_t> rows;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int64_t count = 0;
    if (!absl::SimpleAtoi(part, &count) || count < 1 || count > 8192) {
      return absl::InvalidArgumentError(
          absl::StrCat("--rows is \"", text, "\", wanted numbers in 1..8192 with commas"));
    }
    rows.push_back(count);
  }
  return rows;
}

int RunBench(const std::vector<std::string>& args) {
  const absl::Status status = Run(args);
  return status.ok() ? 0 : FailCommand("bench", status);
}

}  // namespace m1
