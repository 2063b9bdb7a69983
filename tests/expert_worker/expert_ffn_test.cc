#include "expert_worker/expert_ffn.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/expert_worker/random_experts.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ExpertModelShape kShape = {
    .num_layers = 2, .num_experts = 4, .hidden_size = 40, .intermediate_size = 24};

class ExpertFfnTest : public testing::TestWithParam<DType> {
 protected:
  ExpertFfnTest() : weights_(kShape, GetParam()) {}

  RandomExperts weights_;
};

ExpertJob JobOf(RandomBatch* batch, const std::vector<RowExpert>& pairs) {
  return {batch->layer, batch->rows.view(), pairs,
          batch->out.view().Reshape({static_cast<int64_t>(pairs.size()), kShape.hidden_size})};
}

TEST_P(ExpertFfnTest, GroupedRowsEqualRowsAlone) {
  LocalExperts local(weights_, {0, 1, 2, 3}, GetParam());
  for (const int64_t num_rows : {0, 1, 3, 50}) {
    RandomBatch batch(kShape, GetParam(), num_rows);
    const std::vector<RowExpert> pairs = PairsOf(batch);
    const ExpertJob job = JobOf(&batch, pairs);
    ASSERT_OK(local.executor.ValidateJob(job));
    ASSERT_OK(local.executor.Execute({&job, 1}));
    EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch)) << num_rows;
  }
}

TEST_P(ExpertFfnTest, JobsRunTogetherEqualJobsAlone) {
  LocalExperts local(weights_, {0, 1, 2, 3}, GetParam());
  RandomBatch first(kShape, GetParam(), 9, 1);
  RandomBatch second(kShape, GetParam(), 4, 2);
  second.layer = first.layer;
  const std::vector<RowExpert> first_pairs = PairsOf(first);
  const std::vector<RowExpert> second_pairs = PairsOf(second);
  const ExpertJob jobs[] = {JobOf(&first, first_pairs), JobOf(&second, second_pairs)};
  ASSERT_OK(local.executor.Execute(jobs));
  EXPECT_EQ(first.out_bytes(), ComputeAlone(weights_, first));
  EXPECT_EQ(second.out_bytes(), ComputeAlone(weights_, second));
}

TEST_P(ExpertFfnTest, MorePairsThanTheScratchHoldsRunInParts) {
  LocalExperts local(weights_, {0, 1, 2, 3}, GetParam());
  RandomBatch batch(kShape, GetParam(), 3000);  // 6000 pairs
  const std::vector<RowExpert> pairs = PairsOf(batch);
  const ExpertJob job = JobOf(&batch, pairs);
  ASSERT_OK(local.executor.Execute({&job, 1}));
  EXPECT_EQ(batch.out_bytes(), ComputeAlone(weights_, batch));
}

INSTANTIATE_TEST_SUITE_P(ActivationDTypes, ExpertFfnTest,
                         testing::Values(DType::kF32, DType::kBf16));

TEST(ExpertFfnValidateTest, NamesWhatIsWrong) {
  const RandomExperts weights(kShape, DType::kF32);
  LocalExperts local(weights, {1, 2}, DType::kF32);
  Tensor rows(DType::kF32, {2, kShape.hidden_size});
  Tensor out(DType::kF32, {1, kShape.hidden_size});
  const auto check = [&](int32_t layer, RowExpert pair) {
    const ExpertJob job = {layer, rows.view(), {&pair, 1}, out.view()};
    return local.executor.ValidateJob(job);
  };
  EXPECT_OK(check(1, {1, 2}));
  const auto invalid = [](const char* text) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text));
  };
  EXPECT_THAT(check(2, {0, 1}), invalid("layer 2, the model has 2"));
  EXPECT_THAT(check(-1, {0, 1}), invalid("layer -1"));
  EXPECT_THAT(check(0, {2, 1}), invalid("row 2 of 2 rows"));
  EXPECT_THAT(check(0, {-1, 1}), invalid("row -1"));
  EXPECT_THAT(check(0, {0, 3}), invalid("expert 3 is not hosted"));
  EXPECT_THAT(check(0, {0, 400}), invalid("expert 400"));
  EXPECT_THAT(check(0, {0, -1}), invalid("expert -1"));

  const RowExpert pair = {0, 1};
  Tensor narrow(DType::kF32, {2, 8});
  EXPECT_THAT(local.executor.ValidateJob({0, narrow.view(), {&pair, 1}, out.view()}),
              invalid("rows are [2, 8]"));
  Tensor other_dtype(DType::kBf16, {2, kShape.hidden_size});
  EXPECT_THAT(local.executor.ValidateJob({0, other_dtype.view(), {&pair, 1}, out.view()}),
              invalid("rows are bf16"));
  EXPECT_THAT(local.executor.ValidateJob({0, rows.view(), {}, out.view()}), invalid("out is"));
}

TEST(ExpertStoreTest, RefusesExpertsThatDoNotAscendOrDoNotExist) {
  const RandomExperts weights(kShape, DType::kF32);
  const auto weights_of = [&weights](int32_t layer, int32_t expert) {
    return weights.weights(layer, expert);
  };
  for (const std::vector<int32_t>& experts : {std::vector<int32_t>{4}, {-1}, {1, 1}, {2, 1}}) {
    EXPECT_THAT(ExpertStore::Create(kShape, experts, weights_of),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ascend")));
  }
}

TEST(ExpertStoreTest, TouchesOnlyHostedExperts) {
  const RandomExperts weights(kShape, DType::kF32);
  std::vector<int32_t> asked;
  ASSERT_OK_AND_ASSIGN(const ExpertStore store,
                       ExpertStore::Create(kShape, {0, 3}, [&](int32_t layer, int32_t expert) {
                         asked.push_back(expert);
                         return weights.weights(layer, expert);
                       }));
  EXPECT_THAT(asked, ElementsAre(0, 3, 0, 3));
  EXPECT_TRUE(store.hosts(3));
  EXPECT_FALSE(store.hosts(1));
}

TEST(ExpertStoreTest, RefusesWeightsOfAnotherShape) {
  ExpertModelShape other = kShape;
  other.intermediate_size = 16;
  const RandomExperts weights(other, DType::kF32);
  EXPECT_THAT(ExpertStore::Create(
                  kShape, {2},
                  [&](int32_t layer, int32_t expert) { return weights.weights(layer, expert); }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer 0 expert 2: w1 is")));
}

}  // namespace
}  // namespace m1
