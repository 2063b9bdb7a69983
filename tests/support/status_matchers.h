// gMock matchers for absl::Status and absl::StatusOr: IsOk, StatusIs(code, message matcher).
#pragma once

#include <gmock/gmock.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace m1 {

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& status) {
  return status.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << ToStatus(arg).ToString();
  return ToStatus(arg).ok();
}

MATCHER_P2(StatusIs, code, message_matcher, "has the status code and message") {
  *result_listener << ToStatus(arg).ToString();
  return ToStatus(arg).code() == code &&
         testing::ExplainMatchResult(message_matcher, std::string(ToStatus(arg).message()),
                                     result_listener);
}

}  // namespace m1

#define ASSERT_OK(expr) ASSERT_THAT((expr), ::m1::IsOk())
#define EXPECT_OK(expr) EXPECT_THAT((expr), ::m1::IsOk())
#define ASSERT_OK_AND_ASSIGN(lhs, expr) \
  ASSERT_OK_AND_ASSIGN_INNER_(M1_TEST_CONCAT_(m1_test_status_or_, __LINE__), lhs, expr)
#define ASSERT_OK_AND_ASSIGN_INNER_(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  ASSERT_TRUE(tmp.ok()) << tmp.status().ToString(); \
  lhs = std::move(tmp).value()
#define M1_TEST_CONCAT_INNER_(a, b) a##b
#define M1_TEST_CONCAT_(a, b) M1_TEST_CONCAT_INNER_(a, b)
