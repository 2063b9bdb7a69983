#include "common/security/watched_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

// Files are one text, which means a number.
class WatchedFilesTest : public testing::Test {
 protected:
  using Numbers = WatchedFiles<std::string, int64_t>;

  static absl::StatusOr<int64_t> Parse(const std::string& text) {
    int64_t number = 0;
    if (absl::SimpleAtoi(text, &number)) return number;
    return absl::InvalidArgumentError("no number");
  }
  void SetUp() override { ASSERT_OK(numbers_.Load()); }

  // What is in use, taken, failed and rejected.
  std::string State() const {
    const Numbers::State state = numbers_.state();
    return absl::StrCat(*state.in_use, " ", state.reloads.num_taken, " ", state.reloads.num_failed,
                        state.reloads.is_rejected ? " rejected" : "");
  }
  std::optional<absl::Status> LookAt(absl::StatusOr<std::string> found) {
    found_ = std::move(found);
    return numbers_.Look();
  }

  absl::StatusOr<std::string> found_ = "1";
  Numbers numbers_{[this] { return found_; }, Parse};
};

TEST_F(WatchedFilesTest, TakesWhatChangesAndSaysSoOnce) {
  EXPECT_EQ(LookAt("1"), std::nullopt);
  EXPECT_EQ(State(), "1 0 0");
  EXPECT_EQ(LookAt("2"), absl::OkStatus());
  EXPECT_EQ(LookAt("2"), std::nullopt);
  EXPECT_EQ(State(), "2 1 0");
}

TEST_F(WatchedFilesTest, AProblemIsToldOnceAndLastsUntilItIsMended) {
  EXPECT_THAT(LookAt("two").value(), StatusIs(absl::StatusCode::kInvalidArgument, "no number"));
  EXPECT_EQ(State(), "1 0 1 rejected");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(LookAt("two"), std::nullopt);
  EXPECT_EQ(State(), "1 0 1 rejected");
  EXPECT_FALSE(LookAt("three").value().ok()) << "another attempt, with the same problem";
  EXPECT_EQ(State(), "1 0 2 rejected");
  EXPECT_EQ(LookAt("3"), absl::OkStatus());
  EXPECT_EQ(State(), "3 1 2");
}

TEST_F(WatchedFilesTest, FilesThatAreGoneOrBackAreToldToo) {
  EXPECT_THAT(LookAt(absl::InvalidArgumentError("no such file")).value(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no such file")));
  EXPECT_EQ(LookAt(absl::InvalidArgumentError("no such file")), std::nullopt);
  EXPECT_EQ(State(), "1 0 1 rejected");
  EXPECT_EQ(LookAt("1"), absl::OkStatus());
  EXPECT_EQ(State(), "1 1 1");
  EXPECT_EQ(LookAt("1"), std::nullopt);
}

TEST(WatchedFilesTimeTest, WhatBecomesRightWithoutAChangeIsTaken) {
  bool is_time = true;
  std::string found = "old";
  WatchedFiles<std::string, std::string> files(
      [&found] { return found; },
      [&is_time](const std::string& text) -> absl::StatusOr<std::string> {
        if (is_time) return text;
        return absl::InvalidArgumentError("not valid yet");
      });
  ASSERT_OK(files.Load());
  is_time = false;
  found = "new";
  EXPECT_FALSE(files.Look().value().ok());
  EXPECT_EQ(files.Look(), std::nullopt);
  is_time = true;
  EXPECT_EQ(files.Look(), absl::OkStatus());
  EXPECT_EQ(*files.state().in_use, "new");
  EXPECT_FALSE(files.state().reloads.is_rejected);
}

TEST(WatchedFilesThreadsTest, WhoeverSeesAChangeSeesItCounted) {
  constexpr int64_t kChanges = 200000;
  int64_t number = 0;
  WatchedFiles<int64_t, int64_t> numbers(
      [&number] { return absl::StatusOr<int64_t>(number); },
      [](int64_t found) { return absl::StatusOr<int64_t>(found); });
  ASSERT_OK(numbers.Load());
  std::atomic<bool> done = false;
  std::atomic<int64_t> num_uncounted = 0;
  std::thread reader([&] {
    while (!done) {
      const int64_t seen = *numbers.state().in_use;
      if (numbers.state().reloads.num_taken < seen) ++num_uncounted;
    }
  });
  while (number < kChanges) {
    ++number;
    EXPECT_EQ(numbers.Look(), absl::OkStatus());
  }
  done = true;
  reader.join();
  EXPECT_EQ(num_uncounted, 0);
}

}  // namespace
}  // namespace m1
