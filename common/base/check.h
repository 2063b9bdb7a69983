// M1_CHECK: for bugs in this process only. Nothing that a client, a peer or a file sends may reach it.
// Prints file, line and condition with an optional message, then aborts.
#pragma once

#include "absl/strings/string_view.h"

#define M1_CHECK(condition)                                              \
  do {                                                                   \
    if (!(condition)) [[unlikely]] {                                     \
      ::m1::CheckFailed(__FILE__, __LINE__, #condition, "");             \
    }                                                                    \
  } while (false)

#define M1_CHECK_MSG(condition, message)                                 \
  do {                                                                   \
    if (!(condition)) [[unlikely]] {                                     \
      ::m1::CheckFailed(__FILE__, __LINE__, #condition, message);        \
    }                                                                    \
  } while (false)

namespace m1 {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              absl::string_view message);

}  // namespace m1
