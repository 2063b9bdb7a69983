#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

#include "common/metrics/capped_metrics.h"
#include "common/metrics/server_metrics.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

int64_t CountSeries(const std::string& text, absl::string_view name) {
  int64_t count = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, name.size() + 1) == absl::StrCat(name, "{")) ++count;
  }
  return count;
}

// Counters named calls_total by client, so many.
class Calls {
 public:
  explicit Calls(size_t max_values)
      : counters_(&registry_.Counters("calls_total", "Calls."),
                  {.name = "client", .max_values = max_values, .max_idle = absl::Minutes(1)},
                  &clock_) {}
  void Count(absl::string_view client) {
    counters_.With(client, [](prometheus::Counter& counter) { counter.Increment(); });
  }
  std::string Text() const { return registry_.Text(); }
  void Wait(absl::Duration duration) { clock_.Advance(duration); }

 private:
  MetricsRegistry registry_;
  FakeClock clock_;
  CappedMetrics<prometheus::Counter> counters_;
};

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

TEST(ScrapedMetricsTest, LookOnceAScrape) {
  MetricsRegistry registry;
  ScrapedMetrics scraped(&registry);
  int looks = 0;
  scraped.BeforeEach([&looks] { ++looks; });
  scraped.AddGauge("a", "A.", [&looks] { return looks; });
  scraped.AddGauge("b", "B.", [&looks] { return looks; });
  scraped.Publish();
  registry.Text();
  EXPECT_EQ(looks, 1);
  EXPECT_THAT(registry.Text(), AllOf(HasSubstr("a 2\n"), HasSubstr("b 2\n")));
}

TEST(CappedMetricsTest, HostileValuesMakeNoMoreSeriesThanTheCapAndOne) {
  Calls calls(10);
  for (int i = 0; i < 10'000; ++i) {
    calls.Count(absl::StrCat("\"\n\\}", std::string(static_cast<size_t>(i % 300), '\xff'), i));
  }
  EXPECT_EQ(CountSeries(calls.Text(), "calls_total"), 11);
}

TEST(CappedMetricsTest, WhatComesTooLateIsOther) {
  Calls calls(2);
  for (const char* client : {"a", "b", "c", "d", "a", "other"}) calls.Count(client);
  const std::string text = calls.Text();
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"a\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"b\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"other\"} 3\n"));
}

TEST(CappedMetricsTest, ANewValueTakesThePlaceOfOneLongIdle) {
  Calls calls(2);
  calls.Count("a");
  calls.Count("b");
  calls.Wait(absl::Seconds(59));
  calls.Count("b");
  calls.Count("c");  // all are young
  EXPECT_THAT(calls.Text(), HasSubstr("calls_total{client=\"other\"} 1\n"));
  calls.Wait(absl::Seconds(1));
  EXPECT_THAT(calls.Text(), HasSubstr("\"a\""));  // nobody wants its place
  calls.Count("c");
  const std::string text = calls.Text();
  EXPECT_THAT(text, Not(HasSubstr("\"a\"")));
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"b\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("calls_total{client=\"c\"} 1\n"));
}

TEST(CappedMetricsTest, PeersThatComeAndGoForDaysLeaveNoSeries) {
  Calls calls(64);
  for (int i = 0; i < 10'000; ++i) {
    calls.Wait(absl::Seconds(6));
    calls.Count(absl::StrCat("10.0.", i / 256, ".", i % 256));
  }
  const std::string text = calls.Text();
  EXPECT_EQ(CountSeries(text, "calls_total"), 10);  // those of the last minute
  EXPECT_THAT(text, Not(HasSubstr("other")));
}

TEST(CappedMetricsTest, ValuesThatLookAlikeShareASeriesThatGoesOnce) {
  Calls calls(2);
  calls.Count("\x01");
  calls.Count("\x02");
  EXPECT_THAT(calls.Text(), HasSubstr("calls_total{client=\"_\"} 2\n"));
  calls.Wait(absl::Hours(1));
  calls.Count("a");
  calls.Count("\x02");
  EXPECT_THAT(calls.Text(), HasSubstr("calls_total{client=\"_\"} 1\n"));
}

TEST(CapSamplesTest, FoldWhatIsBeyondTheCap) {
  const std::vector<LabelledValue> values = {{"a", 1}, {"b", 1}, {"c", 0}, {"d", 5}, {"a", 7}};
  const auto told = [&](Fold fold) {
    std::vector<std::string> lines;
    for (const MetricSample& sample : CapSamples("worker", values, fold, 2)) {
      lines.push_back(absl::StrCat(sample.labels.at("worker"), " ", sample.value));
    }
    return lines;
  };
  EXPECT_THAT(told(Fold::kSum), ElementsAre("a 8", "b 1", "other 5"));
  EXPECT_THAT(told(Fold::kMin), ElementsAre("a 1", "b 1", "other 0"));
  EXPECT_THAT(told(Fold::kMax), ElementsAre("a 7", "b 1", "other 5"));
}

TEST(CapSamplesTest, AreAllThereBelowTheCap) {
  std::vector<LabelledValue> values;
  for (int i = 0; i < 64; ++i) values.push_back({absl::StrCat("w", i), 1});
  EXPECT_EQ(CapSamples("worker", values, Fold::kMin).size(), 64U);
  values.push_back({"w64", 0});
  const std::vector<MetricSample> samples = CapSamples("worker", values, Fold::kMin);
  ASSERT_EQ(samples.size(), 65U);
  EXPECT_EQ(samples.back().labels.at("worker"), "other");
  EXPECT_EQ(samples.back().value, 0);
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

struct StartedServer {
  int port = 0;
  std::unique_ptr<ServerMetrics> metrics;
};

// On some port that is free.
StartedServer StartSomewhere(const std::string& address) {
  for (int port = 21873; port < 21973; ++port) {
    auto metrics = ServerMetrics::Start({"router", address, port});
    if (metrics.ok()) return {port, *std::move(metrics)};
  }
  ADD_FAILURE() << "no port is free";
  return {};
}

TEST(ServerMetricsTest, ATakenPortIsAnError) {
  const StartedServer first = StartSomewhere("127.0.0.1");
  const auto second = ServerMetrics::Start({"router", "127.0.0.1", first.port});
  EXPECT_THAT(second.status().message(), HasSubstr("--metrics_port"));
}

// One that nobody wakes takes two seconds each time, a machine that stalls does not.
TEST(ServerMetricsTest, StopsAtOnce) {
  for (const char* address : {"127.0.0.1", "0.0.0.0"}) {
    absl::Duration fastest = absl::InfiniteDuration();
    for (int i = 0; i < 3 && fastest > absl::Milliseconds(1500); ++i) {
      StartedServer server = StartSomewhere(address);
      absl::SleepFor(absl::Milliseconds(50));  // it waits for a connection by now
      const absl::Time start = absl::Now();
      server.metrics.reset();
      fastest = std::min(fastest, absl::Now() - start);
    }
    EXPECT_LT(fastest, absl::Milliseconds(1500)) << address;
  }
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

TEST(ServerMetricsTest, KnowsALoopThatStandsStill) {
  const auto metrics = ServerMetrics::Start({"router", "", 0, absl::Nanoseconds(1)});
  ASSERT_OK(metrics.status());
  Heartbeat* const heartbeat = (*metrics)->watchdog()->Add("scheduler");
  EXPECT_EQ((*metrics)->watchdog()->WhyStuck(), "");
  heartbeat->Beat();
  absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT((*metrics)->watchdog()->WhyStuck(), HasSubstr("the scheduler"));
}

TEST(ServerMetricsTest, SaysWhyItIsNotReady) {
  const auto metrics = ServerMetrics::Start({"router", "", 0});
  ASSERT_OK(metrics.status());
  EXPECT_EQ((*metrics)->WhyNotReady(), "loading the model");
  (*metrics)->SetReady(false);
  EXPECT_EQ((*metrics)->WhyNotReady(), "starting");
  {
    ScrapedMetrics component((*metrics)->registry());
    component.WhyNotReady([] { return "no coffee"; });
    EXPECT_EQ((*metrics)->WhyNotReady(), "starting");
    component.Publish();
    EXPECT_EQ((*metrics)->WhyNotReady(), "no coffee");
  }
  (*metrics)->SetReady(true);
  (*metrics)->SetReady(false);
  EXPECT_EQ((*metrics)->WhyNotReady(), "draining");
}

}  // namespace
}  // namespace m1
