#include "tools/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numbers>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace m1 {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr size_t kMostLines = 1'000'000;

bool ParseCount(absl::string_view text, int64_t* value) {
  return absl::SimpleAtoi(text, value) && *value >= 1 && *value <= kMostTokens;
}

absl::Status Bad(absl::string_view flag, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--", flag, " is \"", text,
      "\", wanted N, uniform:LEAST:MOST, lognormal:MEDIAN:SIGMA:LEAST:MOST or file:PATH ",
      "with counts in 1..", kMostTokens));
}

absl::StatusOr<std::vector<int64_t>> ReadCounts(absl::string_view flag, const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("--", flag, ": cannot read ", path));
  std::vector<int64_t> counts;
  std::string line;
  while (std::getline(file, line)) {
    int64_t count = 0;
    if (!ParseCount(line, &count) || counts.size() == kMostLines) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", flag, ": ", path, " line ", counts.size() + 1, " is \"", line.substr(0, 40),
          "\", wanted 1..", kMostTokens, " and at most ", kMostLines, " lines"));
    }
    counts.push_back(count);
  }
  if (counts.empty())
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", path, " is empty"));
  return counts;
}

}  // namespace

double Uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view flag,
                                                             absl::string_view text) {
  LengthDistribution result;
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 4));
  double median = 0;
  if (parts.size() == 1 && ParseCount(parts[0], &result.least_)) {
    result.most_ = result.least_;
  } else if (parts[0] == "file" && parts.size() >= 2) {
    auto counts = ReadCounts(flag, std::string(text.substr(5)));
    if (!counts.ok()) return counts.status();
    result.kind_ = Kind::kList;
    result.list_ = *std::move(counts);
    result.most_ = *std::max_element(result.list_.begin(), result.list_.end());
  } else if (parts[0] == "uniform" && parts.size() == 3 && ParseCount(parts[1], &result.least_) &&
             ParseCount(parts[2], &result.most_)) {
    result.kind_ = Kind::kUniform;
  } else if (parts[0] == "lognormal" && parts.size() == 5 && absl::SimpleAtod(parts[1], &median) &&
             median >= 1 && median <= kMostTokens && absl::SimpleAtod(parts[2], &result.sigma_) &&
             result.sigma_ >= 0 && result.sigma_ <= 10 && ParseCount(parts[3], &result.least_) &&
             ParseCount(parts[4], &result.most_)) {
    result.kind_ = Kind::kLogNormal;
    result.log_median_ = std::log(median);
  } else {
    return Bad(flag, text);
  }
  if (result.least_ > result.most_) return Bad(flag, text);
  return result;
}

int64_t LengthDistribution::Draw(std::mt19937_64& random) {
  switch (kind_) {
    case Kind::kList:
      return list_[next_++ % list_.size()];
    case Kind::kLogNormal: {
      // Box-Muller; 1 - u is never 0.
      const double radius = std::sqrt(-2 * std::log1p(-Uniform(random)));
      const double normal = radius * std::cos(2 * std::numbers::pi * Uniform(random));
      const double value = std::round(std::exp(log_median_ + sigma_ * normal));
      return static_cast<int64_t>(
          std::clamp(value, static_cast<double>(least_), static_cast<double>(most_)));
    }
    case Kind::kUniform:
      break;
  }
  const auto span = static_cast<double>(most_ - least_ + 1);
  return std::min(most_, least_ + static_cast<int64_t>(Uniform(random) * span));
}

std::vector<double> PoissonArrivals(int64_t count, double rate, uint64_t seed) {
  std::vector<double> arrivals(static_cast<size_t>(count), 0.0);
  if (std::isinf(rate)) return arrivals;
  std::mt19937_64 random(seed);
  for (size_t i = 1; i < arrivals.size(); ++i) {
    arrivals[i] = arrivals[i - 1] - std::log1p(-Uniform(random)) / rate;
  }
  return arrivals;
}

std::vector<PlannedRequest> PlanWorkload(WorkloadOptions options) {
  const std::vector<double> arrivals =
      PoissonArrivals(options.num_requests, options.rate, options.seed);
  // Its own stream: the same requests at every rate.
  std::mt19937_64 random(options.seed + 1);
  std::vector<PlannedRequest> plan(arrivals.size());
  for (size_t i = 0; i < plan.size(); ++i) {
    plan[i].arrival_s = arrivals[i];
    plan[i].prompt.resize(static_cast<size_t>(options.input.Draw(random)));
    plan[i].output_tokens = options.output.Draw(random);
    for (int32_t& id : plan[i].prompt)
      id = static_cast<int32_t>(Uniform(random) * options.vocab_size);
  }
  return plan;
}

}  // namespace m1
