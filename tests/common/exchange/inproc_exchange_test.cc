#include "common/exchange/inproc_exchange.h"

#include <gtest/gtest.h>

#include "tests/expert_worker/random_experts.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class InprocExchangeTest : public testing::TestWithParam<DType> {};

TEST_P(InprocExchangeTest, AnySplitOfExpertsGivesTheSameBytes) {
  const RandomExperts weights(kExchangeShape, GetParam());
  RandomBatch batch(kExchangeShape, GetParam(), 13);
  const std::vector<std::byte> expected = ComputeAlone(weights, batch);
  const std::vector<std::vector<std::vector<int32_t>>> splits = {
      {{0, 1, 2, 3, 4, 5, 6, 7}},
      {{0, 1, 2, 3}, {4, 5, 6, 7}},
      {{0}, {1, 3, 5, 7}, {2, 4}, {6}},
      {{0, 1, 2, 3, 4, 5}, {3, 4, 5, 6, 7}}};
  for (const std::vector<std::vector<int32_t>>& split : splits) {
    std::vector<std::unique_ptr<LocalExperts>> workers;
    std::vector<ExpertExecutor*> executors;
    for (const std::vector<int32_t>& experts : split) {
      workers.push_back(std::make_unique<LocalExperts>(weights, experts, GetParam()));
      executors.push_back(&workers.back()->executor);
    }
    InprocExchange exchange(kExchangeShape.num_experts, executors);
    EXPECT_THAT(exchange.MissingExperts(), IsEmpty());
    EXPECT_EQ(exchange.Peers().size(), split.size());
    batch.out = Tensor(GetParam(), batch.out.shape());
    ASSERT_OK(exchange.Dispatch(batch.batch()));
    ASSERT_OK(exchange.Combine(0));
    EXPECT_EQ(batch.out_bytes(), expected);
  }
}

TEST_P(InprocExchangeTest, LanesDoNotMix) {
  const RandomExperts weights(kExchangeShape, GetParam());
  LocalExperts worker(weights, {0, 1, 2, 3, 4, 5, 6, 7}, GetParam());
  InprocExchange exchange(kExchangeShape.num_experts, {&worker.executor});
  RandomBatch first(kExchangeShape, GetParam(), 13, /*seed=*/1);
  RandomBatch second(kExchangeShape, GetParam(), 5, /*seed=*/2);
  ASSERT_OK(exchange.Dispatch(first.batch(0)));
  ASSERT_OK(exchange.Dispatch(second.batch(1)));
  ASSERT_OK(exchange.Combine(0));
  EXPECT_EQ(first.out_bytes(), ComputeAlone(weights, first));
  ASSERT_OK(exchange.Combine(1));
  EXPECT_EQ(second.out_bytes(), ComputeAlone(weights, second));
  EXPECT_THAT(exchange.Dispatch(first.batch(kExchangeLanes)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lane 2")));
}

INSTANTIATE_TEST_SUITE_P(ActivationDTypes, InprocExchangeTest,
                         testing::Values(DType::kF32, DType::kBf16));

TEST(InprocExchangeErrorTest, NamesExpertsWithoutHost) {
  const RandomExperts weights(kExchangeShape, DType::kF32);
  LocalExperts worker(weights, {0, 1, 2}, DType::kF32);
  InprocExchange exchange(kExchangeShape.num_experts, {&worker.executor});
  EXPECT_THAT(exchange.MissingExperts(), ElementsAre(3, 4, 5, 6, 7));
  RandomBatch batch(kExchangeShape, DType::kF32, 1);
  batch.expert_ids = {1, 6};
  ASSERT_OK(exchange.Dispatch(batch.batch()));
  EXPECT_THAT(exchange.Combine(0),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("experts 6")));
}

TEST(InprocExchangeErrorTest, RefusesBatchesWithoutMeaningAndEndsAfterShutdown) {
  const RandomExperts weights(kExchangeShape, DType::kF32);
  LocalExperts worker(weights, {0, 1, 2, 3, 4, 5, 6, 7}, DType::kF32);
  InprocExchange exchange(kExchangeShape.num_experts, {&worker.executor});
  RandomBatch batch(kExchangeShape, DType::kF32, 2);
  batch.expert_ids[1] = 8;
  EXPECT_THAT(exchange.Dispatch(batch.batch()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expert 8")));
  exchange.Shutdown();
  EXPECT_THAT(exchange.Combine(0), StatusIs(absl::StatusCode::kCancelled, HasSubstr("shut down")));
}

}  // namespace
}  // namespace m1
