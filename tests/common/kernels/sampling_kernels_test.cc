// Draws and scores on every target and with 1 to 3 threads, against the plain sorts.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/kernels/exact_math.h"
#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// How the logits of a row are spread.
enum class Kind { kNormal, kPeaked, kFlat, kTies, kConstant, kTiny, kHuge };
constexpr Kind kKinds[] = {Kind::kNormal,   Kind::kPeaked, Kind::kFlat, Kind::kTies,
                           Kind::kConstant, Kind::kTiny,   Kind::kHuge};

class SamplingKernelsTest : public testing::Test {
 protected:
  Tensor Logits(int64_t rows, int64_t vocab) {
    Tensor logits(DType::kF32, {rows, vocab});
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < rows; ++row) {
      const Kind kind = kKinds[static_cast<size_t>(row) % std::size(kKinds)];
      for (int64_t v = 0; v < vocab; ++v) {
        logits.data_as<float>()[row * vocab + v] = Logit(kind, normal(random_));
      }
    }
    return logits;
  }

  float Logit(Kind kind, float normal) {
    switch (kind) {
      case Kind::kNormal:
        return 3.0f * normal;
      case Kind::kPeaked:
        return random_() % 64 == 0 ? 20.0f + normal : normal;
      case Kind::kFlat:
        return 0.1f * normal;
      case Kind::kTies:
        return std::round(normal);
      case Kind::kConstant:
        return -1.5f;
      case Kind::kTiny:  // subnormals among them
        return normal * 1e-38f;
      case Kind::kHuge:
        return normal * 1e25f;
    }
    return 0.0f;
  }

  float Uniform() { return std::uniform_real_distribution<float>(0.0f, 1.0f)(random_); }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }

  TokenDraw RandomDraw(int64_t row) {
    return {.row = row,
            .edits = {},
            .temperature = OneOf({0.0f, 1.0f, 1.0f, 1e-4f, 0.7f, 100.0f}),
            .top_k = OneOf({0, 0, 1, 2, 3, 10, 11, 50, 5000, std::numeric_limits<int32_t>::max()}),
            .top_p = OneOf({1.0f, 0.95f, 0.5f, 1e-45f, 0.999999f}),
            .min_p = OneOf({0.0f, 0.0f, 0.05f, 1e-12f, 1.0f}),
            .uniform = OneOf({0.0, 0.5, 1.0 - 0x1p-53, static_cast<double>(Uniform())})};
  }

  std::vector<LogitEdit> RandomEdits(int64_t vocab, size_t count) {
    std::vector<LogitEdit> edits;
    for (size_t i = 0; i < count; ++i) {
      // Ids of an arithmetic progression differ.
      const auto id = static_cast<int32_t>((static_cast<int64_t>(i) * 7 + 3) % vocab);
      edits.push_back({.id = id,
                       .penalty = OneOf({1.0f, 1.3f, 0.5f, 10.0f, 1e-45f, 1e-38f}),
                       .offset = OneOf({0.0f, -kInfinity, 100.0f, -100.0f, 2.5f})});
    }
    return edits;
  }

  void ExpectEqualDraws(const Tensor& logits, const std::vector<TokenDraw>& draws) {
    Tensor wanted_logits = Copy(logits);
    std::vector<int32_t> want(draws.size(), -1);
    ASSERT_OK(reference_->DrawTokens(wanted_logits.view(), draws, want));
    for (const auto& backend : backends_) {
      Tensor changed = Copy(logits);
      std::vector<int32_t> got(draws.size(), -1);
      ASSERT_OK(backend->DrawTokens(changed.view(), draws, got));
      for (size_t i = 0; i < draws.size(); ++i) {
        const TokenDraw& draw = draws[i];
        ASSERT_EQ(got[i], want[i])
            << backend->name() << " row " << draw.row << " of " << logits.view().dim(1) << " T "
            << draw.temperature << " k " << draw.top_k << " p " << draw.top_p << " min_p "
            << draw.min_p << " u " << draw.uniform << " edits " << draw.edits.size();
      }
      ASSERT_TRUE(SameBits(changed.view(), logits.view())) << "the edits were not taken back";
    }
  }

  static Tensor Copy(const Tensor& tensor) {
    Tensor copy(tensor.dtype(), tensor.shape());
    std::copy_n(tensor.data_as<float>(), tensor.shape().num_elements(), copy.data_as<float>());
    return copy;
  }

  std::mt19937 random_{5};
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();
};

TEST_F(SamplingKernelsTest, DrawsEqualThePlainSort) {
  for (const int64_t vocab : {1, 2, 15, 16, 17, 511, 512, 513, 5000}) {
    const Tensor logits = Logits(14, vocab);
    for (int round = 0; round < 60; ++round) {
      std::vector<TokenDraw> draws;
      for (int64_t row = round % 2; row < 14; ++row) draws.push_back(RandomDraw(row));
      ExpectEqualDraws(logits, draws);
    }
  }
}

// More tokens than are gathered, at the size of a real vocabulary.
TEST_F(SamplingKernelsTest, DrawsFromALargeVocabularyEqualThePlainSort) {
  constexpr int64_t kVocab = 200064;
  const Tensor logits = Logits(7, kVocab);
  for (int round = 0; round < 4; ++round) {
    std::vector<TokenDraw> draws;
    for (int64_t row = 0; row < 7; ++row) draws.push_back(RandomDraw(row));
    if (round == 0) {
      for (TokenDraw& draw : draws) {
        draw = {.row = draw.row, .edits = {}, .top_k = 150000, .top_p = 0.9f, .uniform = 0.7};
      }
    }
    ExpectEqualDraws(logits, draws);
  }
}

TEST_F(SamplingKernelsTest, EditedDrawsEqualThePlainSort) {
  for (const int64_t vocab : {1, 17, 1000}) {
    const Tensor logits = Logits(14, vocab);
    for (int round = 0; round < 40; ++round) {
      std::vector<TokenDraw> draws;
      std::vector<std::vector<LogitEdit>> edits;
      for (int64_t row = 0; row < 14; ++row) {
        // 7 has no factor in common with the vocabularies.
        edits.push_back(RandomEdits(vocab, random_() % static_cast<uint32_t>(vocab + 1)));
      }
      for (int64_t row = 0; row < 14; ++row) {
        draws.push_back(RandomDraw(row));
        draws.back().edits = edits[static_cast<size_t>(row)];
      }
      ExpectEqualDraws(logits, draws);
    }
  }
}

TEST_F(SamplingKernelsTest, ScoresEqualThePlainSort) {
  for (const int64_t vocab : {1, 16, 17, 513, 3000, 20000}) {
    const Tensor logits = Logits(7, vocab);
    std::vector<ScoreRequest> requests;
    for (int64_t row = 0; row < 7; ++row) {
      for (const int32_t candidates : {0, 1, 2, 3, 6, 7, 20}) {
        requests.push_back({.row = row,
                            .id = static_cast<int32_t>(random_() % static_cast<uint32_t>(vocab)),
                            .temperature = OneOf({1.0f, 0.7f}),
                            .lse = Uniform(),
                            .candidate_count = candidates});
      }
    }
    std::vector<TokenScore> want(requests.size());
    ASSERT_OK(reference_->ScoreTokens(logits.view(), requests, want));
    for (const auto& backend : backends_) {
      std::vector<TokenScore> got(requests.size());
      ASSERT_OK(backend->ScoreTokens(logits.view(), requests, got));
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].id, want[i].id);
        EXPECT_EQ(std::bit_cast<uint32_t>(got[i].logprob),
                  std::bit_cast<uint32_t>(want[i].logprob));
        EXPECT_EQ(got[i].rank, want[i].rank) << backend->name();
        ASSERT_EQ(got[i].candidates.size(), want[i].candidates.size());
        for (size_t c = 0; c < want[i].candidates.size(); ++c) {
          EXPECT_EQ(got[i].candidates[c].id, want[i].candidates[c].id);
          EXPECT_EQ(got[i].candidates[c].logprob, want[i].candidates[c].logprob);
        }
      }
    }
  }
}

// Why sums of weights do not depend on their order.
TEST_F(SamplingKernelsTest, AVocabularyOfWeightsIsExactInDouble) {
  for (const int64_t vocab : {1, 2, 3, 512, 513, 200064, 1 << 24}) {
    const double unit = WeightUnit(vocab);
    EXPECT_LE(static_cast<double>(vocab) / unit, 0x1p53);
    EXPECT_GT(static_cast<double>(2 * vocab) / unit, 0x1p53);
  }
}

TEST_F(SamplingKernelsTest, WhatDoesNotExistIsRefused) {
  Tensor logits(DType::kF32, {2, 3});
  std::vector<int32_t> ids(1);
  const LogitEdit bad_id{.id = 3};
  const LogitEdit bad_penalty{.id = 0, .penalty = std::nanf("")};
  const LogitEdit bad_offset{.id = 0, .offset = kInfinity};
  for (const TokenDraw& draw : std::vector<TokenDraw>{{.row = 2},
                                                      {.row = -1},
                                                      {.edits = {&bad_id, 1}},
                                                      {.edits = {&bad_penalty, 1}},
                                                      {.edits = {&bad_offset, 1}},
                                                      {.temperature = -1.0f},
                                                      {.temperature = std::nanf("")},
                                                      {.top_k = -1},
                                                      {.top_p = 0.0f},
                                                      {.min_p = 1.5f},
                                                      {.uniform = 1.0}}) {
    EXPECT_EQ(backends_[0]->DrawTokens(logits.view(), {&draw, 1}, ids).code(),
              absl::StatusCode::kInvalidArgument);
  }
  const std::vector<TokenDraw> twice = {{.row = 1}, {.row = 1}};
  ids.resize(2);
  EXPECT_FALSE(backends_[0]->DrawTokens(logits.view(), twice, ids).ok());
  std::vector<TokenScore> scores(1);
  for (const ScoreRequest& request :
       std::vector<ScoreRequest>{{.row = 2}, {.id = 3}, {.id = -1}, {.temperature = 0.0f}}) {
    EXPECT_EQ(backends_[0]->ScoreTokens(logits.view(), {&request, 1}, scores).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace m1
