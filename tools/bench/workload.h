// What a serving benchmark sends and when: lengths, prompts and arrivals, all from one seed and the
// same on every machine of one libm.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

// Uniform in [0, 1): the standard's distributions differ between libraries.
double Uniform(std::mt19937_64& random);

// Token counts, drawn one at a time:
//   "128"                          always 128
//   "uniform:32:1024"              32..1024, all equally likely
//   "lognormal:200:0.8:16:1024"    median 200, sigma 0.8 of the logarithm, cut to 16..1024
//   "file:PATH"                    the lines of a file in turn, a number each, from the first again
//   at the end
class LengthDistribution {
 public:
  // Errors: InvalidArgument naming `flag`, what it was and what is wanted; NotFound for a file that
  // cannot be read.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view flag, absl::string_view text);

  int64_t Draw(std::mt19937_64& random);
  int64_t largest() const { return most_; }

 private:
  enum class Kind { kUniform, kLogNormal, kList };
  Kind kind_ = Kind::kUniform;
  int64_t least_ = 0;
  int64_t most_ = 0;
  double log_median_ = 0;
  double sigma_ = 0;
  std::vector<int64_t> list_;
  size_t next_ = 0;
};

// Seconds from the start at which `count` requests arrive, ascending, the first at 0: a Poisson
// process of `rate` requests a second (gaps -log(1 - u) / rate), or all at 0 for an infinite rate.
std::vector<double> PoissonArrivals(int64_t count, double rate, uint64_t seed);

struct PlannedRequest {
  double arrival_s = 0;
  std::vector<int32_t> prompt;  // ids below vocab_size, equally likely
  int64_t output_tokens = 0;
};

struct WorkloadOptions {
  int64_t num_requests = 0;
  double rate = 0;  // requests a second, may be infinite
  uint64_t seed = 0;
  int32_t vocab_size = 0;
  LengthDistribution input = {};
  LengthDistribution output = {};
};

std::vector<PlannedRequest> PlanWorkload(WorkloadOptions options);

}  // namespace m1
