#include "tools/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

namespace m1 {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<int64_t> Drawn(const std::string& text, int count) {
  auto lengths = LengthDistribution::Parse("input_len", text);
  EXPECT_TRUE(lengths.ok()) << lengths.status();
  std::mt19937_64 random(7);
  std::vector<int64_t> drawn;
  for (int i = 0; i < count; ++i) drawn.push_back(lengths->Draw(random));
  return drawn;
}

TEST(PoissonArrivalsTest, SameSeedSameTimes) {
  EXPECT_EQ(PoissonArrivals(100, 5, 3), PoissonArrivals(100, 5, 3));
  EXPECT_NE(PoissonArrivals(100, 5, 3), PoissonArrivals(100, 5, 4));
}

TEST(PoissonArrivalsTest, GapsAreExponential) {
  constexpr int kCount = 20'000;
  constexpr double kRate = 4;
  const std::vector<double> arrivals = PoissonArrivals(kCount, kRate, 1);
  EXPECT_EQ(arrivals[0], 0);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  // Mean 1/rate, and e^-1 of the gaps are longer than that; five standard errors.
  EXPECT_NEAR(arrivals.back() / (kCount - 1), 1 / kRate, 5 / kRate / std::sqrt(kCount));
  int longer = 0;
  for (size_t i = 1; i < arrivals.size(); ++i)
    longer += arrivals[i] - arrivals[i - 1] > 1 / kRate ? 1 : 0;
  EXPECT_NEAR(longer, kCount * std::exp(-1), 5 * std::sqrt(kCount * 0.24));
}

TEST(PoissonArrivalsTest, InfiniteRateIsAllAtOnce) {
  EXPECT_THAT(PoissonArrivals(3, kInfinity, 1), ElementsAre(0, 0, 0));
}

TEST(LengthDistributionTest, Fixed) { EXPECT_THAT(Drawn("17", 3), ElementsAre(17, 17, 17)); }

TEST(LengthDistributionTest, UniformReachesBothEnds) {
  const std::vector<int64_t> drawn = Drawn("uniform:3:5", 200);
  EXPECT_THAT(drawn, Each(AllOf(Ge(3), Le(5))));
  for (const int64_t length : {3, 4, 5})
    EXPECT_THAT(drawn, testing::Contains(length).Times(Ge(40)));
}

TEST(LengthDistributionTest, LogNormalHasItsMedianAndBounds) {
  std::vector<int64_t> drawn = Drawn("lognormal:200:0.8:16:1024", 10'001);
  EXPECT_THAT(drawn, Each(AllOf(Ge(16), Le(1024))));
  std::nth_element(drawn.begin(), drawn.begin() + 5000, drawn.end());
  EXPECT_NEAR(static_cast<double>(drawn[5000]), 200, 10);  // 5 sigma * 1.25 * 0.8 * 200 / 100
}

TEST(LengthDistributionTest, FileInTurn) {
  const std::string path = testing::TempDir() + "/lengths-" + std::to_string(getpid()) + ".txt";
  std::ofstream(path) << "5\n9\n";
  EXPECT_THAT(Drawn("file:" + path, 5), ElementsAre(5, 9, 5, 9, 5));
  std::ofstream(path) << "5\nnine\n";
  const auto bad = LengthDistribution::Parse("input_len", "file:" + path);
  EXPECT_THAT(std::string(bad.status().message()),
              AllOf(HasSubstr("input_len"), HasSubstr("line 2"), HasSubstr("nine")));
  std::ofstream(path).flush();
  EXPECT_FALSE(LengthDistribution::Parse("input_len", "file:" + path).ok());
  std::remove(path.c_str());
}

TEST(LengthDistributionTest, RefusesWhatItDoesNotKnow) {
  for (const char* text :
       {"", "0", "-3", "x", "uniform:5:3", "uniform:5", "uniform:0:4", "lognormal:200:0.8",
        "lognormal:0:1:1:2", "lognormal:9:-1:1:2", "lognormal:nan:1:1:2", "lognormal:9:nan:1:2",
        "file", "file:/nonexistent", "99999999999999999999", "uniform:1:99999999999"}) {
    const auto lengths = LengthDistribution::Parse("output_len", text);
    ASSERT_FALSE(lengths.ok()) << text;
    EXPECT_THAT(std::string(lengths.status().message()), HasSubstr("--output_len"));
  }
}

TEST(PlanWorkloadTest, RequestsDoNotDependOnTheRate) {
  WorkloadOptions options{.num_requests = 20, .rate = 3, .seed = 5, .vocab_size = 11};
  options.input = LengthDistribution::Parse("i", "uniform:1:9").value();
  options.output = LengthDistribution::Parse("o", "uniform:1:9").value();
  const std::vector<PlannedRequest> slow = PlanWorkload(options);
  options.rate = kInfinity;
  const std::vector<PlannedRequest> fast = PlanWorkload(options);
  ASSERT_EQ(slow.size(), 20U);
  for (size_t i = 0; i < slow.size(); ++i) {
    EXPECT_EQ(slow[i].prompt, fast[i].prompt);
    EXPECT_EQ(slow[i].output_tokens, fast[i].output_tokens);
    EXPECT_THAT(slow[i].prompt, Each(AllOf(Ge(0), Le(10))));
  }
  EXPECT_GT(slow.back().arrival_s, 0);
}

}  // namespace
}  // namespace m1
