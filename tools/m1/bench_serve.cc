// m1 bench serve: sends load to a running cluster and reports as `vllm bench serve` does.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

#include "common/base/flag_checks.h"
#include "common/base/status_macros.h"
#include "tools/bench/serve_metrics.h"
#include "tools/bench/workload.h"
#include "tools/m1/bench_commands.h"
#include "tools/m1/connection.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/load_client.h"

namespace m1 {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(30);

struct ServeFlags {
  ConnectionFlags connection;
  int num_prompts = 100;
  int num_warmups = 2;
  std::string request_rate = "inf";
  int max_concurrency = 0;
  int connections = 16;
  std::string input_len = "128";
  std::string output_len = "64";
  std::string percentiles = "50,90,95,99";
  std::vector<std::string> goodput;
  std::optional<uint64_t> seed;
  std::optional<float> temperature;
  bool stop_at_eos = false;
  std::optional<absl::Duration> timeout;
  std::string result;
  bool json = false;

  void Register(FlagSet* set) {
    connection.Register(set);
    set->Int("num_prompts", &num_prompts, "requests that count, 1..1000000 (100)");
    set->Int("num_warmups", &num_warmups, "requests before, not counted, one after another (2)");
    set->String("request_rate", &request_rate,
                "requests a second, Poisson arrivals (open loop); inf: all at once (inf)");
    set->Int("max_concurrency", &max_concurrency,
             "requests in flight at most; with --request_rate inf a closed loop; 0: no bound (0)");
    set->Int("connections", &connections, "that requests take in turn, 1..1024 (16)");
    set->String("input_len", &input_len,
                "prompt tokens: N, uniform:LEAST:MOST, lognormal:MEDIAN:SIGMA:LEAST:MOST or "
                "file:PATH (128)");
    set->String("output_len", &output_len, "tokens of an answer, likewise (64)");
    set->String("percentiles", &percentiles, "numbers in 0..100 with commas (50,90,95,99)");
    set->Strings("goodput", &goodput,
                 "a bound in milliseconds: ttft:MS, tpot:MS or e2el:MS; several times");
    set->Uint64("seed", &seed, "of lengths, prompts, arrivals and sampling (0)");
    set->Float("temperature", &temperature, "(0: greedy)");
    set->Bool("stop_at_eos", &stop_at_eos,
              "answers may end early; default: they have their planned length");
    set->Duration("timeout", &timeout, "of a request (1h)");
    set->String("result", &result, "file for the JSON object, with the times of every request");
    set->Bool("json", &json, "print that object instead of a table");
  }
};

absl::StatusOr<double> ParseRate(const std::string& text) {
  double rate = 0;
  if (text == "inf") return HUGE_VAL;
  if (absl::SimpleAtod(text, &rate) && rate >= 1e-6 && rate <= 1e6) return rate;
  return absl::InvalidArgumentError(
      absl::StrCat("--request_rate is \"", text, "\", wanted inf or a number in 1e-6..1e6"));
}

absl::StatusOr<std::vector<double>> ParsePercentiles(const std::string& text) {
  std::vector<double> percents;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double percent = 0;
    if (!absl::SimpleAtod(part, &percent) || !(percent >= 0 && percent <= 100)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--percentiles is \"", text, "\", wanted numbers in 0..100 with commas"));
    }
    percents.push_back(percent);
  }
  return percents;
}

// A bar on a terminal, nothing elsewhere.
class ProgressBar {
 public:
  explicit ProgressBar(int64_t total) : total_(total) {}
  void Show(const LoadProgress& progress) const {
    if (!terminal_) return;
    constexpr int64_t kWidth = 30;
    const int64_t filled = kWidth * progress.num_done / std::max<int64_t>(total_, 1);
    const double seconds = std::max(progress.seconds, 1e-3);
    std::fprintf(stderr, "\r[%s%s] %lld/%lld, %lld running, %.2f requests/s, %.1f tokens/s\x1b[K",
                 std::string(static_cast<size_t>(filled), '#').c_str(),
                 std::string(static_cast<size_t>(kWidth - filled), '.').c_str(),
                 static_cast<long long>(progress.num_done), static_cast<long long>(total_),
                 static_cast<long long>(progress.num_running),
                 static_cast<double>(progress.num_done) / seconds,
                 static_cast<double>(progress.num_tokens) / seconds);
  }
  void Clear() const {
    if (terminal_) std::fputs("\r\x1b[K", stderr);
  }

 private:
  const int64_t total_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
};

void PrintTable(const nlohmann::ordered_json& result) {
  for (const auto& [key, value] : result.items()) {
    if (value.is_number_float()) {
      absl::PrintF("%-32s %12.2f\n", key, value.get<double>());
    } else if (!value.is_array() && !value.is_null()) {
      absl::PrintF("%-32s %12s\n", key,
                   value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

nlohmann::ordered_json Header(const ServeFlags& flags, const v1::GetModelInfoResponse& info,
                              double rate) {
  nlohmann::ordered_json result;
  result["date"] = absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::UTCTimeZone());
  result["backend"] = "m1-serve";
  result["model_id"] = info.model();
  result["num_prompts"] = flags.num_prompts;
  result["request_rate"] = "inf";
  if (!std::isinf(rate)) result["request_rate"] = rate;
  result["burstiness"] = 1.0;
  result["max_concurrency"] = nullptr;
  if (flags.max_concurrency > 0) result["max_concurrency"] = flags.max_concurrency;
  return result;
}

absl::Status Check(const ServeFlags& flags) {
  M1_RETURN_IF_ERROR(CheckFlagRange("num_prompts", flags.num_prompts, 1, 1'000'000));
  M1_RETURN_IF_ERROR(CheckFlagRange("num_warmups", flags.num_warmups, 0, 1'000'000));
  M1_RETURN_IF_ERROR(CheckFlagRange("max_concurrency", flags.max_concurrency, 0, 10'000));
  return CheckFlagRange("connections", flags.connections, 1, 1024);
}

}  // namespace

absl::Status BenchServe(const std::vector<std::string>& args) {
  ServeFlags flags;
  FlagSet set("bench serve",
              "sends random prompts to a running cluster and reports throughput and latencies "
              "(TTFT, TPOT, ITL, E2EL)\n"
              "under the keys of `vllm bench serve`. Exit code 1 when a request failed.");
  flags.Register(&set);
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_RETURN_IF_ERROR(Check(flags));
  M1_ASSIGN_OR_RETURN(const double rate, ParseRate(flags.request_rate));
  M1_ASSIGN_OR_RETURN(const std::vector<double> percents, ParsePercentiles(flags.percentiles));
  M1_ASSIGN_OR_RETURN(const ServiceLevel level, ServiceLevel::Parse(flags.goodput));
  WorkloadOptions workload{
      .num_requests = flags.num_prompts, .rate = rate, .seed = flags.seed.value_or(0)};
  M1_ASSIGN_OR_RETURN(workload.input, LengthDistribution::Parse("input_len", flags.input_len));
  M1_ASSIGN_OR_RETURN(workload.output, LengthDistribution::Parse("output_len", flags.output_len));

  LoadOptions options{.max_concurrency = flags.max_concurrency,
                      .num_connections = flags.connections,
                      .temperature = flags.temperature.value_or(0.0F),
                      .ignore_eos = !flags.stop_at_eos,
                      .seed = workload.seed,
                      .timeout = flags.timeout.value_or(absl::Hours(1))};
  M1_ASSIGN_OR_RETURN(const Connection connection, flags.connection.Open());
  LoadClient client(connection, options);
  M1_ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info, client.ModelInfo(kConnectTimeout));
  workload.vocab_size = info.vocab_size();
  double duration_s = 0;
  if (flags.num_warmups > 0) {
    WorkloadOptions warmup = workload;
    warmup.num_requests = flags.num_warmups;
    warmup.seed =
        workload.seed + 0x9e3779b97f4a7c15ULL;  // other prompts: nothing is cached by them
    options.max_concurrency = 1;
    LoadClient(connection, options)
        .Run(
            PlanWorkload(warmup), [](const LoadProgress&) {}, &duration_s);
  }
  const ProgressBar bar(flags.num_prompts);
  const std::vector<RequestRecord> records = client.Run(
      PlanWorkload(workload), [&bar](const LoadProgress& progress) { bar.Show(progress); },
      &duration_s);
  bar.Clear();

  nlohmann::ordered_json result = Header(flags, info, rate);
  result.update(ServeResult(records, duration_s, level, percents));
  if (flags.json) {
    std::cout << result.dump() << std::endl;
  } else {
    PrintTable(result);
  }
  if (!flags.result.empty()) {
    std::ofstream file(flags.result);
    file << result.dump() << "\n";
    if (!file.flush()) return absl::InternalError(absl::StrCat("cannot write ", flags.result));
  }
  for (const RequestRecord& record : records) {
    if (!record.ok()) {
      return absl::InternalError(absl::StrCat(result["failed"].dump(), " of ", records.size(),
                                              " requests failed: ", record.error));
    }
  }
  return absl::OkStatus();
}

}  // namespace m1
