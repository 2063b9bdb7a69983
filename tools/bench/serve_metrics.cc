#include "tools/bench/serve_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace m1 {
namespace {

double Mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Deviation(const std::vector<double>& values) {
  const double mean = Mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return values.empty() ? 0 : std::sqrt(squares / static_cast<double>(values.size()));
}

void AddTimes(nlohmann::ordered_json* result, const std::string& name,
              const std::vector<double>& seconds, const std::vector<double>& percents) {
  (*result)["mean_" + name + "_ms"] = 1e3 * Mean(seconds);
  (*result)["median_" + name + "_ms"] = 1e3 * Percentile(seconds, 50);
  (*result)["std_" + name + "_ms"] = 1e3 * Deviation(seconds);
  for (const double percent : percents) {
    (*result)[absl::StrCat("p", percent, "_", name, "_ms")] = 1e3 * Percentile(seconds, percent);
  }
}

std::vector<double> Gaps(const RequestRecord& record) {
  std::vector<double> gaps;
  for (size_t i = 1; i < record.events.size(); ++i) {
    gaps.push_back(record.events[i].at_s - record.events[i - 1].at_s);
  }
  return gaps;
}

// Of seconds counted from the first start: most tokens that arrived in one, most requests that ran
// in one.
std::pair<int64_t, int64_t> Peaks(const std::vector<RequestRecord>& records) {
  double first = 0;
  double last = 0;
  bool any = false;
  for (const RequestRecord& record : records) {
    if (!record.ok()) continue;
    first = any ? std::min(first, record.start_s) : record.start_s;
    last = any ? std::max(last, record.end_s) : record.end_s;
    any = true;
  }
  std::vector<int64_t> tokens(static_cast<size_t>(last - first) + 1);
  std::vector<int64_t> running(tokens.size());
  const auto second = [first](double at) { return static_cast<size_t>(std::max(0.0, at - first)); };
  for (const RequestRecord& record : records) {
    if (!record.ok()) continue;
    for (const TokenEvent& event : record.events) tokens[second(event.at_s)] += event.num_tokens;
    for (size_t s = second(record.start_s); s <= second(record.end_s); ++s) ++running[s];
  }
  return {*std::max_element(tokens.begin(), tokens.end()),
          *std::max_element(running.begin(), running.end())};
}

}  // namespace

int64_t RequestRecord::output_tokens() const {
  int64_t count = 0;
  for (const TokenEvent& event : events) count += event.num_tokens;
  return count;
}

double RequestRecord::tpot_s() const {
  const int64_t tokens = output_tokens();
  return tokens > 1 ? (latency_s() - ttft_s()) / static_cast<double>(tokens - 1) : 0;
}

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - static_cast<double>(below)) * (values[above] - values[below]);
}

bool ServiceLevel::IsGood(const RequestRecord& record) const {
  return record.ok() && !record.events.empty() &&
         1e3 * record.ttft_s() <= ttft_ms.value_or(HUGE_VAL) &&
         1e3 * record.tpot_s() <= tpot_ms.value_or(HUGE_VAL) &&
         1e3 * record.latency_s() <= e2el_ms.value_or(HUGE_VAL);
}

absl::StatusOr<ServiceLevel> ServiceLevel::Parse(const std::vector<std::string>& entries) {
  ServiceLevel level;
  for (const std::string& entry : entries) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ':');
    double value = 0;
    const bool parsed = parts.size() == 2 && absl::SimpleAtod(parts[1], &value) && value >= 0;
    if (parsed && parts[0] == "ttft") {
      level.ttft_ms = value;
    } else if (parsed && parts[0] == "tpot") {
      level.tpot_ms = value;
    } else if (parsed && parts[0] == "e2el") {
      level.e2el_ms = value;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "--goodput is \"", entry, "\", wanted ttft:MS, tpot:MS or e2el:MS with MS at least 0"));
    }
  }
  return level;
}

double SteadyOutputRate(const std::vector<RequestRecord>& records) {
  double begin = -HUGE_VAL;
  double end = HUGE_VAL;
  for (const RequestRecord& record : records) {
    if (!record.ok() || record.events.empty()) return 0;
    begin = std::max(begin, record.events.front().at_s);
    end = std::min(end, record.events.back().at_s);
  }
  if (!(begin < end) || records.empty()) return 0;
  int64_t tokens = 0;
  for (const RequestRecord& record : records) {
    for (const TokenEvent& event : record.events) {
      if (event.at_s > begin && event.at_s <= end) tokens += event.num_tokens;
    }
  }
  return static_cast<double>(tokens) / (end - begin);
}

nlohmann::ordered_json ServeResult(const std::vector<RequestRecord>& records, double duration_s,
                                   const ServiceLevel& level, const std::vector<double>& percents) {
  int64_t completed = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  int64_t good = 0;
  std::vector<double> ttfts, tpots, itls, e2els;
  auto lists = nlohmann::ordered_json{
      {"input_lens", nlohmann::json::array()},  {"output_lens", nlohmann::json::array()},
      {"ttfts", nlohmann::json::array()},       {"itls", nlohmann::json::array()},
      {"start_times", nlohmann::json::array()}, {"errors", nlohmann::json::array()}};
  for (const RequestRecord& record : records) {
    const std::vector<double> gaps = Gaps(record);
    const bool timed = record.ok() && !record.events.empty();
    lists["input_lens"].push_back(record.prompt_tokens);
    lists["output_lens"].push_back(record.ok() ? record.output_tokens() : 0);
    lists["ttfts"].push_back(timed ? record.ttft_s() : 0);
    lists["itls"].push_back(gaps);
    lists["start_times"].push_back(record.start_s);
    lists["errors"].push_back(record.error);
    if (!record.ok()) continue;
    ++completed;
    input_tokens += record.prompt_tokens;
    output_tokens += record.output_tokens();
    good += level.IsGood(record) ? 1 : 0;
    if (!timed) continue;
    ttfts.push_back(record.ttft_s());
    e2els.push_back(record.latency_s());
    if (record.output_tokens() > 1) tpots.push_back(record.tpot_s());
    itls.insert(itls.end(), gaps.begin(), gaps.end());
  }
  const auto [most_tokens, most_running] = Peaks(records);
  nlohmann::ordered_json result;
  result["duration"] = duration_s;
  result["completed"] = completed;
  result["failed"] = static_cast<int64_t>(records.size()) - completed;
  result["total_input_tokens"] = input_tokens;
  result["total_output_tokens"] = output_tokens;
  result["request_throughput"] = static_cast<double>(completed) / duration_s;
  result["request_goodput"] = nullptr;
  if (!level.empty()) result["request_goodput"] = static_cast<double>(good) / duration_s;
  result["output_throughput"] = static_cast<double>(output_tokens) / duration_s;
  result["total_token_throughput"] = static_cast<double>(input_tokens + output_tokens) / duration_s;
  result["steady_output_throughput"] = SteadyOutputRate(records);
  result["max_output_tokens_per_s"] = most_tokens;
  result["max_concurrent_requests"] = most_running;
  AddTimes(&result, "ttft", ttfts, percents);
  AddTimes(&result, "tpot", tpots, percents);
  AddTimes(&result, "itl", itls, percents);
  AddTimes(&result, "e2el", e2els, percents);
  result.update(lists);
  return result;
}

}  // namespace m1
