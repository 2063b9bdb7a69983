#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <utility>

#include "absl/time/clock.h"

#include "attention_worker/engine.h"
#include "common/base/watchdog.h"
#include "tests/support/eventually.h"
#include "tests/support/local_model.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Minutes(5);

struct Gate {
  std::atomic<bool> is_shut = false;
  std::atomic<bool> somebody_waits = false;
};

// Passes everything on; Combine waits while the gate is shut.
class GatedExchange final : public ExpertExchange {
 public:
  GatedExchange(std::unique_ptr<ExpertExchange> inner, Gate* gate)
      : inner_(std::move(inner)), gate_(gate) {}

  absl::Status Dispatch(const DispatchBatch& batch) override { return inner_->Dispatch(batch); }
  absl::Status Combine(int32_t lane) override {
    while (gate_->is_shut) {
      gate_->somebody_waits = true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return inner_->Combine(lane);
  }
  std::vector<int32_t> MissingExperts() const override { return {}; }
  std::vector<ExpertPeer> Peers() const override { return {}; }
  void Shutdown() override {}

 private:
  const std::unique_ptr<ExpertExchange> inner_;
  Gate* const gate_;
};

class FinishCounter final : public EventSink {
 public:
  void OnStep(const StepEvents& events) override {
    num_finished += static_cast<int>(events.finished.size());
  }

  std::atomic<int> num_finished = 0;
};

TEST(EngineLivenessTest, AStepThatStandsStillIsKnown) {
  FakeClock clock;
  Watchdog watchdog(kLimit, &clock);
  Gate gate;
  LocalModelOptions options;
  options.heartbeat = watchdog.Add("step loop");
  options.wrap_exchange = [&gate](std::unique_ptr<ExpertExchange> inner) {
    return std::make_unique<GatedExchange>(std::move(inner), &gate);
  };
  LocalModel model("tests/golden/shared-fp32", options);
  const auto sink = std::make_shared<FinishCounter>();
  const int64_t client = model.engine().AddClient(sink);
  const auto is_alive = [&watchdog] { return watchdog.WhyStuck().empty(); };
  clock.Advance(absl::Hours(1));
  EXPECT_TRUE(Eventually(is_alive)) << "without work";

  gate.is_shut = true;
  SequenceStart start;
  start.token_ids = {5, 6, 7, 8};
  start.prompt_token_count = 4;
  start.max_new_tokens = 5;
  ASSERT_TRUE(model.engine().Submit(client, std::move(start)).ok());
  EXPECT_TRUE(Eventually([&gate] { return gate.somebody_waits.load(); }));
  clock.Advance(kLimit);
  EXPECT_EQ(watchdog.WhyStuck(), "");
  clock.Advance(absl::Seconds(1));
  EXPECT_THAT(watchdog.WhyStuck(), HasSubstr("step loop"));

  gate.is_shut = false;
  EXPECT_TRUE(Eventually([&sink] { return sink->num_finished == 1; }));
  clock.Advance(absl::Hours(1));
  EXPECT_TRUE(Eventually(is_alive));
}

}  // namespace
}  // namespace m1
