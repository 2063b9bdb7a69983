#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

#include "router/grpc_fleet_metrics.h"
#include "router/grpc_metrics.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RouterView ReadyWorkers(int count) {
  RouterView view;
  for (int i = 0; i < count; ++i) {
    view.addresses.push_back(absl::StrCat("w", i, ":1"));
    view.snapshot.workers.push_back(
        {.is_ready = true, .limits = {}, .num_sequences = 2, .last_error = ""});
  }
  return view;
}

std::string Of(const char* name, const char* worker, int value) {
  return absl::StrCat("m1_router_worker_", name, "{worker=\"", worker, "\"} ", value, "\n");
}

std::string TextOf(const RouterView& view) {
  MetricsRegistry registry;
  const auto metrics = ScrapeRouter(&registry, [&view] { return view; });
  return registry.Text();
}

TEST(RouterMetricsTest, CallsThatWereGivenUpAreThoseThatEndWithCancelled) {
  MetricsRegistry registry;
  RouterMetrics metrics(&registry);
  for (const absl::Status& status :
       {absl::OkStatus(), absl::CancelledError("gone"), absl::UnavailableError("lost")}) {
    metrics.OnCallEnd("client", status, v1::FINISH_REASON_UNSPECIFIED, absl::Seconds(1));
  }
  EXPECT_THAT(registry.Text(), HasSubstr("m1_router_cancelled_total 1\n"));
}

std::string ReasonOf(const RouterView& view) {
  MetricsRegistry registry;
  const auto metrics = ScrapeRouter(&registry, [&view] { return view; });
  return registry.WhyNotReady();
}

TEST(ScrapeRouterTest, LooksOnceAScrape) {
  MetricsRegistry registry;
  int looks = 0;
  const auto metrics = ScrapeRouter(&registry, [&looks] {
    ++looks;
    return ReadyWorkers(3);
  });
  EXPECT_EQ(looks, 0);
  registry.Text();
  EXPECT_EQ(looks, 1);
  registry.Text();
  EXPECT_EQ(looks, 2);
}

TEST(ScrapeRouterTest, WorkersBeyondTheCapAreTold) {
  RouterView view = ReadyWorkers(67);
  view.addresses[1].clear();  // has left
  const std::string healthy = TextOf(view);
  EXPECT_THAT(healthy, Not(HasSubstr("\"w1:1\"")));
  EXPECT_THAT(healthy, HasSubstr(Of("ready", "w64:1", 1)));
  EXPECT_THAT(healthy, HasSubstr(Of("ready", "other", 1)));
  EXPECT_THAT(healthy, HasSubstr(Of("mismatch", "other", 0)));
  EXPECT_THAT(healthy, HasSubstr(Of("sequences", "other", 4)));
  view.snapshot.workers[65].is_ready = false;
  view.snapshot.workers[66].is_mismatched = true;
  const std::string sick = TextOf(view);
  EXPECT_THAT(sick, HasSubstr(Of("ready", "other", 0)));
  EXPECT_THAT(sick, HasSubstr(Of("mismatch", "other", 1)));
}

TEST(ScrapeRouterTest, SaysWhyItIsNotReady) {
  EXPECT_EQ(ReasonOf(RouterView()), "no attention worker is known");
  RouterView view = ReadyWorkers(5);
  for (WorkerSnapshot& worker : view.snapshot.workers) worker.is_ready = false;
  view.snapshot.workers[0].last_error = "not connected\nyet";
  EXPECT_EQ(ReasonOf(view),
            "no attention worker of 5 is ready: w0:1: not connected_yet; w1:1: takes no requests "
            "now; w2:1: takes no requests now; ...");
  view.snapshot.is_draining = true;
  EXPECT_EQ(ReasonOf(view), "draining");
}

TEST(RouterMetricsTest, TellWhyACallWasRefused) {
  MetricsRegistry registry;
  RouterMetrics metrics(&registry);
  const auto refused = [](const char* reason, int count) {
    return HasSubstr(
        absl::StrCat("m1_router_refused_total{reason=\"", reason, "\"} ", count, "\n"));
  };
  for (const char* reason : {"invalid", "queue_full", "draining", "internal"}) {
    EXPECT_THAT(registry.Text(), refused(reason, 0));
  }
  metrics.OnRefused(absl::InvalidArgumentError(""));
  metrics.OnRefused(absl::AlreadyExistsError(""));
  metrics.OnRefused(absl::ResourceExhaustedError(""));
  metrics.OnRefused(absl::UnavailableError(""));
  metrics.OnRefused(absl::InternalError(""));
  metrics.OnRefused(absl::UnknownError(""));
  const std::string text = registry.Text();
  EXPECT_THAT(text, refused("invalid", 2));
  EXPECT_THAT(text, refused("queue_full", 1));
  EXPECT_THAT(text, refused("draining", 1));
  EXPECT_THAT(text, refused("internal", 2));
}

}  // namespace
}  // namespace m1
