#include "common/base/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(TraceTest, WritesSpansThatAreJson) {
  const std::string path = testing::TempDir() + "/trace-" + std::to_string(getpid()) + ".json";
  {
    auto trace = TraceFile::Create(path, "worker");
    ASSERT_OK(trace);
    const ScopedSpan outer(trace->get(), {.name = "attention", .track = 2, .layer = 3, .rows = 17});
    (*trace)->Add({.name = "step",
                   .begin = absl::UnixEpoch() + absl::Microseconds(1500),
                   .end = absl::UnixEpoch() + absl::Microseconds(1750)});
  }
  const auto events = nlohmann::json::parse(ReadFile(path));
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["args"]["name"], "worker");
  EXPECT_EQ(events[1]["name"], "step");
  EXPECT_EQ(events[1]["ts"], 1500.0);
  EXPECT_EQ(events[1]["dur"], 250.0);
  EXPECT_FALSE(events[1]["args"].contains("layer"));
  EXPECT_EQ(events[2]["name"], "attention");
  EXPECT_EQ(events[2]["tid"], 2);
  EXPECT_EQ(events[2]["args"]["layer"], 3);
  EXPECT_EQ(events[2]["args"]["rows"], 17);
  EXPECT_GE(events[2]["dur"], 0.0);
}

TEST(TraceTest, KeepsNoMoreThanItMay) {
  const std::string path = testing::TempDir() + "/full-" + std::to_string(getpid()) + ".json";
  {
    auto trace = TraceFile::Create(path, "worker", /*max_spans=*/3);
    ASSERT_OK(trace);
    for (int i = 0; i < 10; ++i) (*trace)->Add({.name = "step"});
  }
  EXPECT_EQ(nlohmann::json::parse(ReadFile(path)).size(), 4U);
}

TEST(TraceTest, ThePathMayHoldTheProcessId) {
  const std::string folder = testing::TempDir();
  ASSERT_OK(TraceFile::Create(folder + "/of-%p.json", "worker"));
  EXPECT_NE(ReadFile(folder + "/of-" + std::to_string(getpid()) + ".json"), "");
}

TEST(TraceTest, APathThatCannotBeWrittenIsNamed) {
  EXPECT_THAT(TraceFile::Create("/no/such/folder/t.json", "worker").status(),
              StatusIs(absl::StatusCode::kNotFound, testing::HasSubstr("/no/such/folder/t.json")));
}

TEST(TraceTest, WithoutASinkASpanIsNothing) { const ScopedSpan span(nullptr, {.name = "step"}); }

}  // namespace
}  // namespace m1
