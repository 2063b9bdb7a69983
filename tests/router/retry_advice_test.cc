#include "router/retry_advice.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace m1 {
namespace {

constexpr size_t kQueueSize = 32;
constexpr int kRunning = 10;

// A queue before `kRunning` places that are freed at random times, and clients that come back when
// they are told to.
class Simulation {
 public:
  explicit Simulation(absl::Duration mean_service) : mean_service_(mean_service) {}

  void Arrive() {
    if (queued_ == kQueueSize) {
      events_.insert({now_ + advice_.Advise(now_), kReturn});
      return;
    }
    ++queued_;
    StartWaiting();
  }

  // Everybody who was refused comes until served.
  void Run() {
    while (!events_.empty()) {
      const auto [time, event] = *events_.begin();
      events_.erase(events_.begin());
      now_ = time;
      if (event == kEnd) {
        --running_;
        ++served_;
        StartWaiting();
      } else {
        ++returns_;
        admitted_at_once_ += queued_ < kQueueSize ? 1 : 0;
        Arrive();
      }
    }
  }

  int served() const { return served_; }
  double share_admitted() const { return static_cast<double>(admitted_at_once_) / returns_; }
  absl::Duration elapsed() const { return now_ - absl::UnixEpoch(); }

 private:
  enum Event { kEnd, kReturn };

  void StartWaiting() {
    while (queued_ > 0 && running_ < kRunning) {
      --queued_;
      ++running_;
      advice_.OnDeparture(now_);
      const double service = std::exponential_distribution<>(1.0)(random_);
      events_.insert({now_ + mean_service_ * service, kEnd});
    }
  }

  const absl::Duration mean_service_;
  RetryAdvice advice_{kQueueSize};
  std::mt19937_64 random_{3};
  absl::Time now_ = absl::UnixEpoch();
  std::multiset<std::pair<absl::Time, Event>> events_;
  size_t queued_ = 0;
  int running_ = 0;
  int served_ = 0;
  int returns_ = 0;
  int admitted_at_once_ = 0;
};

TEST(RetryAdviceTest, MostWhoObeyAreAdmittedAtOnce) {
  for (const double seconds : {0.05, 1.0, 10.0}) {
    Simulation simulation(absl::Seconds(seconds));
    for (int i = 0; i < 42; ++i) simulation.Arrive();
    simulation.Run();  // the rate is known
    for (int i = 0; i < 500; ++i) simulation.Arrive();
    simulation.Run();
    EXPECT_EQ(simulation.served(), 542);
    EXPECT_GE(simulation.share_admitted(), 0.8) << seconds;
    // And the workers were busy: 542 requests on ten places take 54 service times.
    EXPECT_LT(simulation.elapsed(), absl::Seconds(seconds) * 100) << seconds;
  }
}

TEST(RetryAdviceTest, EachIsToldALaterTime) {
  RetryAdvice advice(kQueueSize);
  const absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 20; ++i) advice.OnDeparture(now + absl::Milliseconds(200 * i));
  const absl::Time later = now + absl::Seconds(4);
  const absl::Duration first = advice.Advise(later);
  EXPECT_NEAR(absl::ToDoubleSeconds(first), 0.2 * 9, 0.01);
  EXPECT_NEAR(absl::ToDoubleSeconds(advice.Advise(later) - first), 0.2, 0.01);
}

TEST(RetryAdviceTest, IsBounded) {
  RetryAdvice advice(kQueueSize);
  const absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 100000; ++i) EXPECT_LE(advice.Advise(now), absl::Minutes(15));
  EXPECT_GE(RetryAdvice(1).Advise(now), absl::Milliseconds(50));
}

}  // namespace
}  // namespace m1
