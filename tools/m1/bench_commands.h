// The actions of `m1 bench`; each takes the arguments after its name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

absl::Status BenchLimits(const std::vector<std::string>& args);
absl::Status BenchExchange(const std::vector<std::string>& args);
absl::Status BenchKernels(const std::vector<std::string>& args);
absl::Status BenchServe(const std::vector<std::string>& args);

// Of this machine, at least 1.
int NumCores();
// The value of --seconds, `otherwise` where it was not given. Errors: InvalidArgument naming the
// range.
absl::StatusOr<double> SecondsFlag(std::optional<float> value, double otherwise);
// The value of --rows: numbers with commas. Errors: InvalidArgument naming the range.
absl::StatusOr<std::vector<int64_t>> RowsFlag(const std::string& text);

}  // namespace m1
