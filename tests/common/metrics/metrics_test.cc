#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/metrics/capped_metrics.h"
#include "common/metrics/server_metrics.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int64_t CountSeries(const std::string& text, absl::string_view name) {
  int64_t count = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, name.size() + 1) == absl::StrCat(name, "{")) ++count;
  }
  return count;
}

// Counters named calls_total.
CappedMetrics<prometheus::Counter>::Add CallsOf(MetricsRegistry* registry) {
  return [registry](const prometheus::Labels& labels) -> prometheus::Counter& {
    return registry->AddCounter("calls_total", "Calls.", labels);
  };
}

TEST(MetricsRegistryTest, WritesWhatWasCounted) {
  MetricsRegistry registry;
  registry.AddCounter("jobs_total", "Jobs.", {{"kind", "a"}}).Increment(3);
  registry.AddCounter("jobs_total", "Jobs.", {{"kind", "a"}}).Increment();
  registry.AddGauge("depth", "Depth.").Set(7);
  registry.AddHistogram("wait_seconds", "Wait.", {0.1, 1}).Observe(0.5);
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("# HELP jobs_total Jobs.\n# TYPE jobs_total counter\n"));
  EXPECT_THAT(text, HasSubstr("jobs_total{kind=\"a\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("depth 7\n"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{le=\"0.1\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("wait_seconds_bucket{le=\"1\"} 1\n"));
}

TEST(ScrapedMetricsTest, AreReadAtEachScrapeWhileTheyLive) {
  MetricsRegistry registry;
  int value = 1;
  {
    ScrapedMetrics scraped(&registry);
    scraped.AddGauge("value", "Value.", [&value] { return static_cast<double>(value); });
    scraped.AddCounters("parts_total", "Parts.", [] {
      return std::vector<MetricSample>{{{{"part", "x"}}, 2}};
    });
    EXPECT_THAT(registry.Text(), Not(HasSubstr("value")));
    scraped.Publish();
    EXPECT_THAT(registry.Text(), HasSubstr("value 1\n"));
    EXPECT_THAT(registry.Text(), HasSubstr("parts_total{part=\"x\"} 2\n"));
    value = 2;
    EXPECT_THAT(registry.Text(), HasSubstr("value 2\n"));
  }
  EXPECT_THAT(registry.Text(), Not(HasSubstr("value")));
}

TEST(ScrapedMetricsTest, AScrapeNeverReadsWhatIsGone) {
  MetricsRegistry registry;
  std::atomic<bool> done = false;
  std::thread scraper([&] {
    while (!done) registry.Text();
  });
  for (int i = 0; i < 1000; ++i) {
    auto value = std::make_unique<double>(i);
    ScrapedMetrics scraped(&registry);
    scraped.AddGauge("value", "Value.", [raw = value.get()] { return *raw; });
    scraped.Publish();
  }
  done = true;
  scraper.join();
}

TEST(CappedMetricsTest, HostileValuesMakeNoMoreSeriesThanTheCapAndOne) {
  MetricsRegistry registry;
  CappedMetrics<prometheus::Counter> counters("client", CallsOf(&registry), 10);
  for (int i = 0; i < 10'000; ++i) {
    counters.Of(absl::StrCat("\"\n\\}", std::string(static_cast<size_t>(i % 300), '\xff'), i))
        .Increment();
  }
  const std::string text = registry.Text();
  EXPECT_EQ(CountSeries(text, "calls_total"), 11);
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"other\"} 9990\n"));
}

TEST(CappedMetricsTest, AKnownValueKeepsItsCounter) {
  MetricsRegistry registry;
  CappedMetrics<prometheus::Counter> counters("client", CallsOf(&registry), 1);
  counters.Of("a").Increment();
  counters.Of("b").Increment();
  counters.Of("a").Increment();
  EXPECT_THAT(registry.Text(), HasSubstr("calls_total{client=\"a\"} 2\n"));
}

TEST(LabelValueTest, IsShortPrintableText) {
  EXPECT_EQ(LabelValue("ipv4:10.0.0.1"), "ipv4:10.0.0.1");
  EXPECT_EQ(LabelValue(std::string("a\0b\n\xc3", 5)), "a_b__");
  EXPECT_EQ(LabelValue(std::string(1000, 'x')).size(), 128U);
}

TEST(ReadMetricsFlagsTest, TheAddressIsThatOfTheServer) {
  EXPECT_EQ(ReadMetricsFlags("router", "", 9464, "0.0.0.0")->address, "0.0.0.0");
  EXPECT_EQ(ReadMetricsFlags("router", "", 9464, "unix:/tmp/a")->address, "127.0.0.1");
  EXPECT_EQ(ReadMetricsFlags("router", "10.1.2.3", 9464, "0.0.0.0")->address, "10.1.2.3");
}

TEST(ReadMetricsFlagsTest, ErrorsNameTheFlag) {
  for (const int port : {-1, 65536}) {
    EXPECT_THAT(ReadMetricsFlags("router", "", port, "").status().message(),
                HasSubstr(absl::StrCat("--metrics_port is ", port)));
  }
  EXPECT_THAT(ReadMetricsFlags("router", "a host", 1, "").status().message(),
              HasSubstr("--metrics_address is \"a host\""));
}

TEST(ServerMetricsTest, ATakenPortIsAnError) {
  // Some port that is free: another process may take it between, then the first Start fails.
  for (int port = 21873; port < 21973; ++port) {
    const auto first = ServerMetrics::Start({"router", "127.0.0.1", port});
    if (!first.ok()) continue;
    const auto second = ServerMetrics::Start({"router", "127.0.0.1", port});
    EXPECT_THAT(second.status().message(), HasSubstr("--metrics_port"));
    return;
  }
  FAIL() << "no port is free";
}

TEST(ServerMetricsTest, SaysWhetherItIsReady) {
  const auto metrics = ServerMetrics::Start({"router", "", 0});
  ASSERT_OK(metrics.status());
  EXPECT_THAT((*metrics)->registry()->Text(), HasSubstr("m1_ready 0\n"));
  (*metrics)->SetReady(true);
  EXPECT_THAT((*metrics)->registry()->Text(), HasSubstr("m1_ready 1\n"));
  EXPECT_THAT((*metrics)->registry()->Text(), HasSubstr("component=\"router\""));
  EXPECT_THAT((*metrics)->registry()->Text(), HasSubstr("process_open_fds "));
}

}  // namespace
}  // namespace m1
