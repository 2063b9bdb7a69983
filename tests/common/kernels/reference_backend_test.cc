// The plain loops without attention, against values worked out by hand and libm in double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::FloatNear;

class ReferenceBackendTest : public testing::Test {
 protected:
  static Tensor Floats(const Shape& shape, const std::vector<float>& values) {
    Tensor tensor(DType::kF32, shape);
    std::copy(values.begin(), values.end(), tensor.data_as<float>());
    return tensor;
  }
  static Tensor Bf16s(const Shape& shape, const std::vector<float>& values) {
    Tensor tensor(DType::kBf16, shape);
    std::transform(values.begin(), values.end(), tensor.data_as<Bf16>(), FloatToBf16);
    return tensor;
  }
  static std::vector<float> Values(const Tensor& tensor) {
    std::vector<float> values;
    for (int64_t i = 0; i < tensor.shape().num_elements(); ++i) {
      values.push_back(tensor.dtype() == DType::kBf16 ? Bf16ToFloat(tensor.data_as<Bf16>()[i])
                                                      : tensor.data_as<float>()[i]);
    }
    return values;
  }
  static double Silu(double x) { return x / (1.0 + std::exp(-x)); }

  const std::unique_ptr<KernelBackend> backend_ = CreateReferenceBackend();
};

TEST_F(ReferenceBackendTest, EmbedTakesRows) {
  const Tensor table = Bf16s({3, 2}, {1, 2, 3, 4, 5, 6});
  const std::array<int32_t, 2> ids{2, 0};
  Tensor out(DType::kF32, {2, 2});
  ASSERT_OK(backend_->Embed(ids, table.view(), out.view()));
  EXPECT_THAT(Values(out), ElementsAre(5, 6, 1, 2));
}

TEST_F(ReferenceBackendTest, RmsNormDividesByTheRootMeanSquare) {
  const Tensor x = Floats({1, 2}, {3, 4});
  const Tensor weight = Floats({2}, {1, 10});
  Tensor out(DType::kF32, {1, 2});
  ASSERT_OK(backend_->RmsNorm(x.view(), weight.view(), 0.0f, out.view()));
  const float root = std::sqrt(12.5f);
  EXPECT_THAT(Values(out), ElementsAre(FloatNear(3 / root, 1e-6f), FloatNear(40 / root, 1e-5f)));
}

TEST_F(ReferenceBackendTest, RoundTiesGoToEven) {
  // bf16 has 8 bits: 1 + 1/256 lies half-way between 1 and 1 + 1/128.
  const Tensor x = Floats({4}, {1.0f + 1.0f / 256, 1.0f + 3.0f / 256, -1.00390625f, 1.004f});
  Tensor out(DType::kBf16, {4});
  ASSERT_OK(backend_->Round(x.view(), out.view()));
  EXPECT_THAT(Values(out), ElementsAre(1.0f, 1.0f + 2.0f / 128, -1.0f, 1.0f + 1.0f / 128));
}

TEST_F(ReferenceBackendTest, LinearMultipliesByTheTransposedWeights) {
  const Tensor x = Floats({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor w = Bf16s({2, 3}, {1, 0, -1, 2, 2, 2});
  Tensor out(DType::kF32, {2, 2});
  ASSERT_OK(backend_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
  EXPECT_THAT(Values(out), ElementsAre(-2, 12, -2, 30));
  ASSERT_OK(backend_->Linear(x.view(), w.view(), Epilogue::kSilu, out.view()));
  EXPECT_NEAR(out.data_as<float>()[0], Silu(-2.0), 1e-6);
  EXPECT_NEAR(out.data_as<float>()[3], Silu(30.0), 1e-5);
}

// In one lane of the dot form: 2^24 + 1 is not a float, so the order of the terms shows.
TEST_F(ReferenceBackendTest, LinearAddsPairsOddFirstAndFloatsInOrder) {
  constexpr float kBig = 16777216.0f;
  Tensor out(DType::kF32, {1, 1});
  const auto sum = [&](const Tensor& x, const Tensor& w) {
    EXPECT_OK(backend_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
    return out.data_as<float>()[0];
  };
  std::vector<float> x(64, 0.0f);
  const std::vector<float> ones(64, 1.0f);
  // Lane 0 meets elements 1, 0, 33, 32: big + 1 is lost, -big, + 1.
  x[1] = kBig;
  x[0] = 1.0f;
  x[33] = -kBig;
  x[32] = 1.0f;
  EXPECT_EQ(sum(Bf16s({1, 64}, x), Bf16s({1, 64}, ones)), 1.0f);
  // As floats elements 0 and 32 meet in lane 0, and 1 and 33 in lane 1: nothing is lost.
  EXPECT_EQ(sum(Floats({1, 64}, x), Bf16s({1, 64}, ones)), 2.0f);
}

TEST_F(ReferenceBackendTest, GatedUpAndExpertFfnAreTheExpertFormula) {
  const Tensor x = Floats({1, 1}, {2});
  const Tensor w1 = Floats({2, 1}, {1, -1});
  const Tensor w3 = Floats({2, 1}, {3, 5});
  const Tensor w2 = Floats({1, 2}, {1, 10});
  Tensor mid(DType::kF32, {1, 2});
  ASSERT_OK(backend_->GatedUp(x.view(), w1.view(), w3.view(), mid.view()));
  EXPECT_NEAR(mid.data_as<float>()[0], Silu(2.0) * 6, 1e-5);
  EXPECT_NEAR(mid.data_as<float>()[1], Silu(-2.0) * 10, 1e-5);
  const ExpertGroup group{0, 1, w1.view(), w2.view(), w3.view()};
  Tensor out(DType::kF32, {1, 1});
  ASSERT_OK(backend_->ExpertFfn(x.view(), {&group, 1}, mid.view(), out.view()));
  EXPECT_NEAR(out.data_as<float>()[0], Silu(2.0) * 6 + Silu(-2.0) * 100, 1e-4);
}

TEST_F(ReferenceBackendTest, ScaledAddAndSigmoidMul) {
  const Tensor x = Floats({2}, {1, 2});
  const Tensor y = Floats({2}, {10, 20});
  Tensor out(DType::kF32, {2});
  ASSERT_OK(backend_->ScaledAdd(2.0f, x.view(), 0.5f, y.view(), out.view()));
  EXPECT_THAT(Values(out), ElementsAre(7, 14));
  const Tensor gate = Floats({1, 2}, {0, 1});
  const Tensor row = Floats({1, 2}, {8, 8});
  Tensor gated(DType::kF32, {1, 2});
  ASSERT_OK(backend_->SigmoidMul(gate.view(), row.view(), gated.view()));
  EXPECT_THAT(Values(gated), ElementsAre(4.0f, FloatNear(8 / (1 + std::exp(-1.0f)), 1e-5f)));
}

TEST_F(ReferenceBackendTest, TopKGateTakesTheLowerIdOfATie) {
  const Tensor logits = Floats({2, 4}, {1, 3, 3, 2, 0, 0, 0, 0});
  Tensor ids(DType::kI32, {2, 2});
  Tensor weights(DType::kF32, {2, 2});
  ASSERT_OK(backend_->TopKGate(logits.view(), ids.view(), weights.view()));
  const int32_t* id = ids.data_as<int32_t>();
  EXPECT_THAT(std::vector<int32_t>(id, id + 4), ElementsAre(1, 2, 0, 1));
  EXPECT_THAT(Values(weights), ElementsAre(0.5f, 0.5f, 0.5f, 0.5f));
}

TEST_F(ReferenceBackendTest, TopKGateWeightsAreTheRenormalisedSoftmax) {
  const Tensor logits = Floats({1, 3}, {2, 0, 1});
  Tensor ids(DType::kI32, {1, 2});
  Tensor weights(DType::kF32, {1, 2});
  ASSERT_OK(backend_->TopKGate(logits.view(), ids.view(), weights.view()));
  const float first = 1 / (1 + std::exp(-1.0f));
  EXPECT_THAT(Values(weights), ElementsAre(FloatNear(first, 1e-6f), FloatNear(1 - first, 1e-6f)));
}

TEST_F(ReferenceBackendTest, CombineExpertsWeighsRowsInGateOrder) {
  const Tensor y = Bf16s({1, 2, 2}, {1, 2, 10, 20});
  const Tensor weights = Floats({1, 2}, {0.75f, 0.25f});
  Tensor out(DType::kF32, {1, 2});
  ASSERT_OK(backend_->CombineExperts(y.view(), weights.view(), out.view()));
  EXPECT_THAT(Values(out), ElementsAre(3.25f, 6.5f));
}

TEST_F(ReferenceBackendTest, SharedExpertMixIsHalfAndHalfAtZero) {
  const Tensor moe = Floats({1, 1}, {10});
  const Tensor shared = Floats({1, 1}, {20});
  const Tensor logit = Floats({1, 1}, {0});
  Tensor out(DType::kF32, {1, 1});
  ASSERT_OK(backend_->SharedExpertMix(moe.view(), shared.view(), logit.view(), out.view()));
  EXPECT_EQ(out.data_as<float>()[0], 15.0f);
}

TEST_F(ReferenceBackendTest, LogSumExpDividesByTheTemperature) {
  std::vector<float> values;
  for (int i = 0; i < 100; ++i) values.push_back(std::sin(static_cast<float>(i)) * 20.0f);
  const Tensor logits = Floats({1, 100}, values);
  const float temperature = 0.7f;
  float lse = 0.0f;
  ASSERT_OK(backend_->LogSumExp(logits.view(), {&temperature, 1}, {&lse, 1}));
  double sum = 0.0;
  for (const float value : values) sum += std::exp(static_cast<double>(value) / double{0.7f});
  EXPECT_NEAR(lse, std::log(sum), 1e-5);
}

TEST_F(ReferenceBackendTest, LogSumExpOfALogitThatIsNotFiniteIsNan) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    const Tensor logits = Floats({1, 3}, {1, bad, 2});
    const float temperature = 1.0f;
    float lse = 0.0f;
    ASSERT_OK(backend_->LogSumExp(logits.view(), {&temperature, 1}, {&lse, 1}));
    EXPECT_TRUE(std::isnan(lse));
  }
}

class ReferenceSamplingTest : public ReferenceBackendTest {
 protected:
  // Weights 1, 1/2, 1/4, 1/8, 1/8 (ties) by falling logit: ids 1, 3, 0, 2, 4.
  ReferenceSamplingTest()
      : logits_(Floats(
            {1, 5}, {std::log(0.25f), 0.0f, std::log(0.125f), std::log(0.5f), std::log(0.125f)})) {}

  int32_t Draw(const TokenDraw& draw) {
    int32_t id = -1;
    EXPECT_OK(backend_->DrawTokens(logits_.view(), {&draw, 1}, {&id, 1}));
    return id;
  }
  // The ids that may be drawn, each with its share of 400 evenly spaced numbers.
  std::map<int32_t, int> Shares(TokenDraw draw) {
    std::map<int32_t, int> shares;
    for (int i = 0; i < 400; ++i) {
      draw.uniform = (i + 0.5) / 400;
      ++shares[Draw(draw)];
    }
    return shares;
  }

  using Map = std::map<int32_t, int>;
  Tensor logits_;
};

TEST_F(ReferenceSamplingTest, DrawsInOrderOfId) {
  EXPECT_EQ(Shares({}), (Map{{0, 50}, {1, 200}, {2, 25}, {3, 100}, {4, 25}}));
  EXPECT_EQ(Draw({.uniform = 0.0}), 0);
  EXPECT_EQ(Draw({.uniform = 1.0 - 0x1p-53}), 4);
}

TEST_F(ReferenceSamplingTest, TemperatureDividesLogits) {
  // Weights squared: 1, 1/4, 1/16, 1/64 twice; together 1.34375.
  EXPECT_EQ(Shares({.temperature = 0.5f}), (Map{{0, 19}, {1, 297}, {2, 5}, {3, 74}, {4, 5}}));
}

TEST_F(ReferenceSamplingTest, TopKTakesTheLowerOfTies) {
  EXPECT_EQ(Shares({.top_k = 1}), (Map{{1, 400}}));
  EXPECT_EQ(Shares({.top_k = 3}), (Map{{0, 57}, {1, 229}, {3, 114}}));
  EXPECT_EQ(Shares({.top_k = 4}).count(2), 1U);
  EXPECT_EQ(Shares({.top_k = 4}).count(4), 0U);
  EXPECT_EQ(Shares({.top_k = 6}), Shares({}));
}

TEST_F(ReferenceSamplingTest, TopPTakesTheFewestThatReachIt) {
  EXPECT_EQ(Shares({.top_p = 0.5f}), (Map{{1, 400}}));
  EXPECT_EQ(Shares({.top_p = 0.51f}), (Map{{1, 267}, {3, 133}}));
  EXPECT_EQ(Shares({.top_p = 1e-45f}), (Map{{1, 400}}));
  // Of what top_k left: 4/7 for the first.
  EXPECT_EQ(Shares({.top_k = 3, .top_p = 0.57f}), (Map{{1, 400}}));
  EXPECT_EQ(Shares({.top_k = 3, .top_p = 0.58f}), (Map{{1, 267}, {3, 133}}));
}

TEST_F(ReferenceSamplingTest, MinPIsRelativeToTheFirst) {
  EXPECT_EQ(Shares({.min_p = 0.3f}), (Map{{1, 267}, {3, 133}}));
  EXPECT_EQ(Shares({.min_p = 1.0f}), (Map{{1, 400}}));
}

TEST_F(ReferenceSamplingTest, EditsComeFirst) {
  const float masked = -std::numeric_limits<float>::infinity();
  const std::vector<LogitEdit> edits = {{.id = 1, .offset = masked},
                                        {.id = 0, .penalty = 0.5f},            // to 1/2
                                        {.id = 2, .offset = std::log(2.0f)}};  // to 1/4
  EXPECT_EQ(Shares({.edits = edits, .top_k = 3}), (Map{{0, 160}, {2, 80}, {3, 160}}));
  EXPECT_EQ(Draw({.edits = edits, .temperature = 0.0f}), 0);
  std::vector<LogitEdit> all;
  for (int32_t id = 0; id < 5; ++id) all.push_back({.id = id, .offset = masked});
  EXPECT_EQ(Draw({.edits = all, .temperature = 0.0f}), 0);
  EXPECT_EQ(Draw({.edits = all, .uniform = 0.99}), 0);
  all.pop_back();
  EXPECT_EQ(Draw({.edits = all, .top_p = 0.3f, .uniform = 0.0}), 4);
}

TEST_F(ReferenceSamplingTest, ScoresRankTiesById) {
  const Tensor logits = Floats({1, 4}, {2, 3, 2, -1});
  const ScoreRequest request{
      .row = 0, .id = 2, .temperature = 0.5f, .lse = 7.0f, .candidate_count = 3};
  TokenScore score;
  ASSERT_OK(backend_->ScoreTokens(logits.view(), {&request, 1}, {&score, 1}));
  EXPECT_EQ(score.id, 2);
  EXPECT_EQ(score.rank, 3);
  EXPECT_EQ(score.logprob, 2.0f / 0.5f - 7.0f);
  ASSERT_EQ(score.candidates.size(), 3U);
  EXPECT_EQ(score.candidates[0].id, 1);
  EXPECT_EQ(score.candidates[0].logprob, 3.0f / 0.5f - 7.0f);
  EXPECT_EQ(score.candidates[1].id, 0);
  EXPECT_EQ(score.candidates[2].id, 2);
}

}  // namespace
}  // namespace m1
