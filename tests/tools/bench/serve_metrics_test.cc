#include "tools/bench/serve_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace m1 {
namespace {

using ::testing::HasSubstr;

// Tokens one at a time.
RequestRecord Record(double start, std::vector<double> token_times) {
  RequestRecord record{.start_s = start, .end_s = token_times.back(), .prompt_tokens = 10};
  for (const double at : token_times) record.events.push_back({at, 1});
  return record;
}

// Expected values are what numpy.percentile prints.
TEST(PercentileTest, InterpolatesAsNumpy) {
  const std::vector<double> values = {15, 20, 35, 40, 50};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 15);
  EXPECT_DOUBLE_EQ(Percentile(values, 40), 29);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 35);
  EXPECT_DOUBLE_EQ(Percentile(values, 99), 49.6);
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 50);
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 50), 2.5);
  EXPECT_DOUBLE_EQ(Percentile({7}, 99), 7);
  EXPECT_DOUBLE_EQ(Percentile({}, 50), 0);
}

TEST(RequestRecordTest, TimesOfOneRequest) {
  const RequestRecord record = Record(1.0, {1.5, 1.75, 2.5});
  EXPECT_DOUBLE_EQ(record.ttft_s(), 0.5);
  EXPECT_DOUBLE_EQ(record.tpot_s(), 0.5);
  EXPECT_DOUBLE_EQ(record.latency_s(), 1.5);
  EXPECT_DOUBLE_EQ(Record(1.0, {1.5}).tpot_s(), 0);
}

TEST(ServiceLevelTest, AllBoundsMustHold) {
  const ServiceLevel level = ServiceLevel::Parse({"ttft:500", "tpot:400"}).value();
  EXPECT_TRUE(level.IsGood(Record(0, {0.5, 0.75, 1.25})));    // ttft at its bound, tpot 375
  EXPECT_FALSE(level.IsGood(Record(0, {0.51, 0.75, 1.25})));  // ttft
  EXPECT_FALSE(level.IsGood(Record(0, {0.5, 0.75, 1.5})));    // tpot 500
  EXPECT_TRUE(level.IsGood(Record(0, {0.5})));                // one token has no tpot
  RequestRecord failed = Record(0, {0.1});
  failed.error = "gone";
  EXPECT_FALSE(level.IsGood(failed));
}

TEST(ServiceLevelTest, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"itl:5", "ttft", "ttft:x", "ttft:-1", "ttft:1:2", "", "ttft:nan"}) {
    const auto level = ServiceLevel::Parse({text});
    ASSERT_FALSE(level.ok()) << text;
    EXPECT_THAT(std::string(level.status().message()), HasSubstr("--goodput"));
  }
}

TEST(SteadyOutputRateTest, CountsWhileAllDecode) {
  // Both decode from 1.0 to 2.0: two tokens of the first, one of the second.
  EXPECT_DOUBLE_EQ(SteadyOutputRate({Record(0, {0.5, 1.25, 1.75, 3.0}), Record(0, {1.0, 2.0})}),
                   3.0);
  EXPECT_DOUBLE_EQ(SteadyOutputRate({Record(0, {0.5, 0.75}), Record(0, {1.0, 2.0})}), 0);
  EXPECT_DOUBLE_EQ(SteadyOutputRate({}), 0);
}

TEST(ServeResultTest, CountsAndRates) {
  RequestRecord failed{.start_s = 1.0, .end_s = 1.0, .prompt_tokens = 10, .error = "gone"};
  const std::vector<RequestRecord> records = {Record(0, {0.5, 1.0, 2.0}), Record(1.0, {2.5}),
                                              failed};
  const auto level = ServiceLevel::Parse({"ttft:500"}).value();
  const nlohmann::ordered_json result = ServeResult(records, 4.0, level, {50, 99.9});
  EXPECT_EQ(result["completed"], 2);
  EXPECT_EQ(result["failed"], 1);
  EXPECT_EQ(result["total_input_tokens"], 20);
  EXPECT_EQ(result["total_output_tokens"], 4);
  EXPECT_DOUBLE_EQ(result["request_throughput"], 0.5);
  EXPECT_DOUBLE_EQ(result["request_goodput"], 0.25);
  EXPECT_DOUBLE_EQ(result["output_throughput"], 1.0);
  EXPECT_DOUBLE_EQ(result["total_token_throughput"], 6.0);
  EXPECT_DOUBLE_EQ(result["mean_ttft_ms"], 1000);
  EXPECT_DOUBLE_EQ(result["std_ttft_ms"], 500);  // of the population
  EXPECT_DOUBLE_EQ(result["p50_itl_ms"], 750);
  EXPECT_DOUBLE_EQ(result["mean_tpot_ms"], 750);  // of the one with more than one token
  EXPECT_TRUE(result.contains("p99.9_e2el_ms"));
  EXPECT_EQ(result["max_concurrent_requests"], 2);
  EXPECT_EQ(result["max_output_tokens_per_s"], 2);  // in the third second
  EXPECT_EQ(result["itls"][0].size(), 2U);
  EXPECT_EQ(result["errors"][2], "gone");
}

TEST(ServeResultTest, GoodputIsNullWithoutBounds) {
  EXPECT_TRUE(ServeResult({Record(0, {1.0})}, 1.0, {}, {50})["request_goodput"].is_null());
}

TEST(ServeResultTest, NothingSucceeded) {
  RequestRecord failed{.error = "gone"};
  const nlohmann::ordered_json result = ServeResult({failed}, 1.0, {}, {50});
  EXPECT_EQ(result["completed"], 0);
  EXPECT_EQ(result["mean_e2el_ms"], 0);
}

}  // namespace
}  // namespace m1
