// CudaKernelBackend over rows of logits: the results of the plain loops, to the bit.
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using CudaSamplingTest = CudaBackendTest;

const std::vector<float> kTemperatures = {1.0f, 0.5f, 2.0f, 1.0f, 0.7f};
const auto kRows = static_cast<int64_t>(kTemperatures.size());

// Of a vocabulary, with ties.
Tensor Logits(const ModelSizes& sizes) {
  Tensor logits = RandomMatrix(DType::kF32, {kRows, sizes.vocab}, 1, 0);
  for (int64_t row = 0; row < kRows; ++row) {
    float* l = logits.data_as<float>() + row * sizes.vocab;
    for (int64_t i = 0; i < sizes.vocab; i += 5) l[i] = 1.5f;
    l[17] = l[400] = 7.5f + static_cast<float>(row);
  }
  return logits;
}

std::vector<float> Lse(KernelBackend& backend, ConstTensorView logits) {
  std::vector<float> lse(kTemperatures.size());
  EXPECT_OK(backend.LogSumExp(logits, kTemperatures, lse));
  return lse;
}

TEST_F(CudaSamplingTest, LogSumExpHasTheBitsOfThePlainLoop) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Tensor logits = Logits(sizes);
    EXPECT_EQ(Lse(*gpu_, OnGpu(logits).view()), Lse(*plain_, logits.view()));
  }
}

// Every kind of truncation, with edits and without.
struct Draws {
  Draws(int64_t vocab, int round) : last_token{{static_cast<int32_t>(vocab - 1), 1.0f, 20.0f}} {
    const double uniform = 0.001 + 0.0199 * round;
    draws = {{.row = 0, .edits = two_tokens, .temperature = 0.0f},
             {.row = 1, .temperature = 0.8f, .top_p = 0.9f, .uniform = uniform},
             {.row = 2, .temperature = 1.5f, .uniform = uniform},
             {.row = 3, .temperature = 1.0f, .top_k = 40, .top_p = 0.8f, .uniform = 1 - uniform},
             {.row = 4, .edits = last_token, .temperature = 1.3f, .min_p = 0.05f, .uniform = 0.6}};
  }
  Draws(const Draws&) = delete;  // draws point to the edits
  Draws& operator=(const Draws&) = delete;

  const std::vector<LogitEdit> two_tokens{{.id = 3, .offset = 9.0f}, {.id = 400, .penalty = 1.5f}};
  const std::vector<LogitEdit> last_token;
  std::vector<TokenDraw> draws;
};

TEST_F(CudaSamplingTest, DrawsAreThoseOfThePlainLoopAndEditsAreUndone) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    Tensor logits = Logits(sizes);
    Tensor on_gpu = OnGpu(logits);
    for (int round = 0; round < (OnRealGpu() ? 50 : 2); ++round) {
      const Draws draws(sizes.vocab, round);
      std::vector<int32_t> want(draws.draws.size());
      std::vector<int32_t> got(draws.draws.size());
      ASSERT_OK(plain_->DrawTokens(logits.view(), draws.draws, want));
      ASSERT_OK(gpu_->DrawTokens(on_gpu.view(), draws.draws, got));
      EXPECT_EQ(got, want) << round;
    }
    EXPECT_TRUE(SameBits(OnHost(on_gpu).view(), logits.view()));
  }
}

TEST_F(CudaSamplingTest, ScoresAreThoseOfThePlainLoop) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Tensor logits = Logits(sizes);
    const std::vector<float> lse = Lse(*plain_, logits.view());
    const auto last = static_cast<int32_t>(sizes.vocab - 1);
    const std::vector<ScoreRequest> requests = {
        {.row = 0, .id = 400, .lse = lse[0], .candidate_count = 5},
        {.row = 2, .id = 11, .temperature = 2.0f, .lse = lse[2]},
        {.row = 4, .id = last, .temperature = 0.7f, .lse = lse[4], .candidate_count = 20}};
    std::vector<TokenScore> want(requests.size());
    std::vector<TokenScore> got(requests.size());
    ASSERT_OK(plain_->ScoreTokens(logits.view(), requests, want));
    ASSERT_OK(gpu_->ScoreTokens(OnGpu(logits).view(), requests, got));
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(got[i].id, want[i].id);
      EXPECT_EQ(got[i].logprob, want[i].logprob);
      EXPECT_EQ(got[i].rank, want[i].rank);
      ASSERT_EQ(got[i].candidates.size(), want[i].candidates.size());
      for (size_t c = 0; c < got[i].candidates.size(); ++c) {
        EXPECT_EQ(got[i].candidates[c].id, want[i].candidates[c].id);
        EXPECT_EQ(got[i].candidates[c].logprob, want[i].candidates[c].logprob);
      }
    }
  }
}

}  // namespace
}  // namespace m1
