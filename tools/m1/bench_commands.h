// The actions of `m1 bench`; each takes the arguments after its name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace m1 {

absl::Status BenchLimits(const std::vector<std::string>& args);
absl::Status BenchKernels(const std::vector<std::string>& args);
absl::Status BenchServe(const std::vector<std::string>& args);

}  // namespace m1
