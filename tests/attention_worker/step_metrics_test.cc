#include "attention_worker/step_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace m1 {
namespace {

using ::testing::HasSubstr;

TraceSpan Span(absl::string_view name, int seconds, int64_t rows = 0) {
  return {.name = name,
          .begin = absl::UnixEpoch(),
          .end = absl::UnixEpoch() + absl::Seconds(seconds),
          .rows = rows};
}

class CountingSink final : public TraceSink {
 public:
  void Add(const TraceSpan& /*span*/) override { ++count; }
  int count = 0;
};

TEST(StepMetricsTest, PhasesAddUpToTheStep) {
  MetricsRegistry registry;
  CountingSink next;
  StepMetrics metrics(&registry, &next);
  for (int step = 0; step < 2; ++step) {
    metrics.Add(Span("gate", 1));
    metrics.Add(Span("attention", 5));
    metrics.Add(Span("wait", 7));
    metrics.Add(Span("sampling", 2));
    metrics.Add(Span("head", 3));
    EXPECT_EQ(next.count, 6 * step + 5);
    metrics.Add(Span("step", 20, 8));
  }
  const std::string text = registry.Text();
  const auto seconds = [&](const char* phase, const char* value) {
    return HasSubstr(std::string("phase_seconds_total{phase=\"") + phase + "\"} " + value + "\n");
  };
  EXPECT_THAT(text, seconds("attention", "8"));
  EXPECT_THAT(text, seconds("gate", "2"));
  EXPECT_THAT(text, seconds("exchange_wait", "14"));
  EXPECT_THAT(text, seconds("head", "2"));
  EXPECT_THAT(text, seconds("sampling", "4"));
  EXPECT_THAT(text, seconds("other", "10"));
  EXPECT_THAT(text, HasSubstr("m1_attention_step_rows_sum 16\n"));
  EXPECT_THAT(text, HasSubstr("m1_attention_step_seconds_count 2\n"));
}

}  // namespace
}  // namespace m1
