// Early returns for absl::Status and absl::StatusOr.
//
//   M1_RETURN_IF_ERROR(Check(x));
//   M1_ASSIGN_OR_RETURN(Config config, ParseConfig(text));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#define M1_RETURN_IF_ERROR(expr)                             \
  do {                                                       \
    if (absl::Status m1_status_ = (expr); !m1_status_.ok()) { \
      return m1_status_;                                     \
    }                                                        \
  } while (false)

#define M1_MACRO_CONCAT_INNER_(a, b) a##b
#define M1_MACRO_CONCAT_(a, b) M1_MACRO_CONCAT_INNER_(a, b)

#define M1_ASSIGN_OR_RETURN(lhs, expr) \
  M1_ASSIGN_OR_RETURN_INNER_(M1_MACRO_CONCAT_(m1_status_or_, __LINE__), lhs, expr)
#define M1_ASSIGN_OR_RETURN_INNER_(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) {                                 \
    return std::move(tmp).status();                \
  }                                                \
  lhs = std::move(tmp).value()

namespace m1 {

// The same code with `context: ` before the message; OK stays OK.
inline absl::Status AddContext(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace m1
