#include "attention_worker/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// As seen from outside: so many peers.
class KnownPeers final : public ExpertExchange {
 public:
  explicit KnownPeers(std::vector<ExpertPeer> peers) : peers_(std::move(peers)) {}
  absl::Status Dispatch(const DispatchBatch& /*batch*/) override { return absl::OkStatus(); }
  absl::Status Combine(int32_t /*lane*/) override { return absl::OkStatus(); }
  std::vector<int32_t> MissingExperts() const override { return {3, 7}; }
  std::vector<ExpertPeer> Peers() const override { return peers_; }
  void Shutdown() override {}

 private:
  const std::vector<ExpertPeer> peers_;
};

ExpertPeer Connected(int index) {
  ExpertPeer peer;
  peer.address = absl::StrCat("10.0.0.", index, ":50053");
  peer.connected = true;
  peer.sent_bytes = 10;
  peer.received_bytes = 1;
  return peer;
}

std::string TextOf(const KnownPeers& exchange) {
  MetricsRegistry registry;
  ScrapedMetrics metrics(&registry);
  AddExchange(&metrics, &exchange);
  metrics.Publish();
  return registry.Text();
}

std::string Of(const char* name, const char* worker, const char* value) {
  return absl::StrCat("m1_attention_", name, "{expert_worker=\"", worker, "\"} ", value, "\n");
}

TEST(AddExchangeTest, WorkersBeyondTheCapAreTold) {
  std::vector<ExpertPeer> peers;
  for (int i = 0; i < 66; ++i) peers.push_back(Connected(i));
  const std::string healthy = TextOf(KnownPeers(peers));
  EXPECT_THAT(healthy, HasSubstr(Of("expert_worker_connected", "10.0.0.63:50053", "1")));
  EXPECT_THAT(healthy, HasSubstr(Of("expert_worker_connected", "other", "1")));
  EXPECT_THAT(healthy, HasSubstr(Of("expert_worker_mismatch", "other", "0")));
  EXPECT_THAT(healthy, HasSubstr(Of("exchange_sent_bytes_total", "other", "20")));
  EXPECT_THAT(healthy, HasSubstr(Of("exchange_received_bytes_total", "other", "2")));
  EXPECT_THAT(healthy, Not(HasSubstr("10.0.0.64")));
  EXPECT_THAT(healthy, HasSubstr("m1_attention_experts_missing 2\n"));

  peers[65].connected = false;
  peers[65].mismatched = true;
  const std::string sick = TextOf(KnownPeers(peers));
  EXPECT_THAT(sick, HasSubstr(Of("expert_worker_connected", "other", "0")));
  EXPECT_THAT(sick, HasSubstr(Of("expert_worker_mismatch", "other", "1")));
}

TEST(ExchangeLatencyTest, ForgetsExpertWorkersThatAreGone) {
  MetricsRegistry registry;
  FakeClock clock;
  ExchangeLatency latency(&registry, &clock);
  const auto count = [](int worker, const char* value) {
    return absl::StrCat("m1_attention_exchange_seconds_count{expert_worker=\"10.0.0.", worker,
                        "\"} ", value, "\n");
  };
  for (int i = 0; i < 65; ++i) latency.OnAnswer(absl::StrCat("10.0.0.", i), absl::Seconds(1));
  EXPECT_THAT(registry.Text(), HasSubstr(count(63, "1")));
  EXPECT_THAT(registry.Text(), HasSubstr("_count{expert_worker=\"other\"} 1\n"));
  clock.Advance(absl::Minutes(59));
  latency.OnAnswer("10.0.0.1", absl::Seconds(1));
  clock.Advance(absl::Minutes(1));
  latency.OnAnswer("10.0.0.99", absl::Seconds(1));
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr(count(1, "2")));
  EXPECT_THAT(text, HasSubstr(count(99, "1")));
  EXPECT_THAT(text, Not(HasSubstr("10.0.0.63")));
}

TEST(WhyNotReadyTest, NamesTheExpertsWithoutAHost) {
  EXPECT_EQ(WhyNotReady(false, {3, 7}), "experts 3,7 have no host");
  EXPECT_EQ(WhyNotReady(false, {4}), "expert 4 has no host");
  EXPECT_EQ(WhyNotReady(true, {4}), "draining");
}

}  // namespace
}  // namespace m1
