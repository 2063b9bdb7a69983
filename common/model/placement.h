// Which experts a worker hosts, as flags say it: "0-7,12", shard "I/N" or "POD-I/N".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace m1 {

// "0-7,12" -> sorted ids. Errors: InvalidArgument on syntax, doubles, or ids outside [0,
// num_experts).
absl::StatusOr<std::vector<int32_t>> ParseExpertList(absl::string_view text, int32_t num_experts);
// "I/N", 0 <= I < N <= num_experts: contiguous shares whose sizes differ by at most one. Or
// "NAME-I/N", the name of a pod with its ordinal: share I modulo N, so that pods beyond N host
// copies.
absl::StatusOr<std::vector<int32_t>> ParseShard(absl::string_view text, int32_t num_experts);
// The inverse of ParseExpertList: "0-7,12".
std::string FormatExpertList(const std::vector<int32_t>& experts);

}  // namespace m1
