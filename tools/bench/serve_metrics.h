// What a serving benchmark reports: times of requests to the figures and JSON keys of `vllm bench
// serve`, so that one script reads both. Definitions are vLLM's: ITL is the gap between messages
// that carry tokens, TPOT is (latency - TTFT) / (tokens - 1), percentiles are numpy's (linear
// interpolation), std is of the population.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace m1 {

// A message of tokens.
struct TokenEvent {
  double at_s = 0;  // since the start of the benchmark
  int64_t num_tokens = 0;
};

struct RequestRecord {
  double start_s = 0;  // since the start of the benchmark
  double end_s = 0;
  int64_t prompt_tokens = 0;
  std::vector<TokenEvent> events = {};
  std::string error = {};  // empty: it succeeded

  bool ok() const { return error.empty(); }
  int64_t output_tokens() const;
  // Requires an event.
  double ttft_s() const { return events.front().at_s - start_s; }
  double latency_s() const { return end_s - start_s; }
  double tpot_s() const;  // 0 for one token
};

// Linear between the two nearest ranks, as numpy.percentile; 0 when `values` is empty. `percent` in
// [0, 100].
double Percentile(std::vector<double> values, double percent);

// A request is good when it keeps all bounds that are set.
struct ServiceLevel {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2el_ms;

  bool empty() const { return !ttft_ms && !tpot_ms && !e2el_ms; }
  bool IsGood(const RequestRecord& record) const;
  // "ttft:500" and so on, one entry each. Errors: InvalidArgument.
  static absl::StatusOr<ServiceLevel> Parse(const std::vector<std::string>& entries);
};

// Output tokens a second while all requests decode: from the last first token to the first last
// one. 0 when that never was.
double SteadyOutputRate(const std::vector<RequestRecord>& records);

// The keys of vLLM's result, and `steady_output_throughput`. `percents`: which percentiles, e.g.
// {50, 90, 99}.
nlohmann::ordered_json ServeResult(const std::vector<RequestRecord>& records, double duration_s,
                                   const ServiceLevel& level, const std::vector<double>& percents);

}  // namespace m1
