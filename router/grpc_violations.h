// Collects what is wrong with a request, field by field, and answers it as google.rpc.BadRequest.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

// Hostile requests may be wrong a million times; this many violations are told.
inline constexpr size_t kMaxViolations = 16;

class Violations {
 public:
  // `field` is a path such as `sampling.top_p`; `description` holds the value and the limit.
  void Add(std::string field, std::string description);

  // `value` must be in `wanted`, a text like "0..20".
  template <typename T>
  void Require(bool holds, absl::string_view field, const T& value, absl::string_view wanted) {
    if (holds) return;
    Add(std::string(field), absl::StrCat("is ", value, ", must be ", wanted));
  }

  bool empty() const { return violations_.empty(); }
  bool full() const { return violations_.size() >= kMaxViolations; }

  // InvalidArgument with the first violation as its message and all as google.rpc.BadRequest; OK
  // when there is none.
  absl::Status ToStatus() const;

 private:
  std::vector<std::pair<std::string, std::string>> violations_;  // field, description
};

// Attaches google.rpc.RetryInfo: when a ResourceExhausted caller should try again.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

}  // namespace m1
