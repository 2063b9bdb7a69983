// The vocabulary kernels in the simulator: the bits of the plain loops and sorts.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/kernels/backend.h"
#include "common/kernels/cuda/vocab_kernels.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr double kBelowOne = 1.0 - 0x1p-53;

// How the logits of a row are spread.
enum class Kind { kNormal, kPeaked, kTies, kConstant, kTiny, kHuge };
constexpr Kind kKinds[] = {Kind::kNormal,   Kind::kPeaked, Kind::kTies,
                           Kind::kConstant, Kind::kTiny,   Kind::kHuge};
constexpr int64_t kNumKinds = std::size(kKinds);

TEST(DeviceLogTest, HasTheBitsOfExactMath) {
  const ScopedFlushDenormals flush;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 32'771) {
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isnan(ExactLog(x))) {
      EXPECT_TRUE(std::isnan(Log(x))) << x;
      continue;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(Log(x)), std::bit_cast<uint32_t>(ExactLog(x))) << x;
  }
  EXPECT_EQ(Log(kInf), kInf);
}

// Keys order tokens as logits do, with subnormals equal to zero.
TEST(OrderOfTest, IsThatOfTheLogits) {
  const ScopedFlushDenormals flush;
  const std::vector<float> ascending = {-kInf,     -1e30f, -2.0f, -1.0f, -0x1p-126f, 0.0f,
                                        0x1p-126f, 1.0f,   2.0f,  1e30f, kInf};
  for (size_t i = 0; i + 1 < ascending.size(); ++i) {
    EXPECT_LT(OrderOf(ascending[i]), OrderOf(ascending[i + 1])) << ascending[i];
    EXPECT_EQ(LogitOfOrder(OrderOf(ascending[i])), ascending[i]);
  }
  for (const float zero : {-0.0f, 1e-40f, -1e-40f}) EXPECT_EQ(OrderOf(zero), OrderOf(0.0f));
}

class VocabKernelTest : public testing::Test {
 protected:
  // A row of each kind, over and over.
  Tensor Logits(int64_t rows, int64_t vocab) {
    Tensor logits(DType::kF32, {rows, vocab});
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * vocab; ++i) {
      logits.data_as<float>()[i] = Logit(kKinds[i / vocab % kNumKinds], normal(random_));
    }
    return logits;
  }

  float Logit(Kind kind, float normal) {
    switch (kind) {
      case Kind::kNormal:
        return 3.0f * normal;
      case Kind::kPeaked:
        return random_() % 64 == 0 ? 20.0f + normal : normal;
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

  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }

  TokenDraw RandomDraw(int64_t row) {
    return {.row = row,
            .edits = {},
            .temperature = OneOf({0.0f, 1.0f, 1.0f, 1e-4f, 0.7f, 100.0f}),
            .top_k = OneOf({0, 0, 1, 2, 10, 50, 5000, std::numeric_limits<int32_t>::max()}),
            .top_p = OneOf({1.0f, 0.95f, 0.5f, 1e-45f, 0.999999f}),
            .min_p = OneOf({0.0f, 0.0f, 0.05f, 1e-12f, 1.0f}),
            .uniform = OneOf({0.0, 0.5, kBelowOne, 0.3, 0.9})};
  }

  std::vector<LogitEdit> RandomEdits(int64_t vocab, int64_t count) {
    std::vector<LogitEdit> edits;
    for (int64_t i = 0; i < count; ++i) {
      edits.push_back({.id = static_cast<int32_t>((i * 7 + 3) % vocab),
                       .penalty = OneOf({1.0f, 1.3f, 0.5f, 10.0f, 1e-45f, 1e-38f}),
                       .offset = OneOf({0.0f, -kInf, 100.0f, -100.0f, 2.5f})});
    }
    return edits;
  }

  void ExpectEqualSums(const Tensor& logits, const std::vector<float>& temperatures) {
    std::vector<float> want(temperatures.size());
    ASSERT_OK(reference_->LogSumExp(logits.view(), temperatures, want));
    std::vector<float> lse(temperatures.size());
    SimulatedMemory memory;
    memory.AddInput(Elements<float>(logits));
    memory.AddInput(std::span<const float>(temperatures));
    memory.AddOutput(std::span<float>(lse));
    const LogSumExpArgs args{logits.data_as<float>(), temperatures.data(), lse.data(),
                             static_cast<int32_t>(lse.size()),
                             static_cast<int32_t>(logits.view().dim(1))};
    RunClean(LogSumExpGrid(args.rows), memory,
             [&](SimulatedThread& thread) { LogSumExp::Run(thread, args); });
    ExpectWritten(memory, std::span<const float>(lse), 1);
    for (size_t row = 0; row < lse.size(); ++row) {
      if (std::isnan(want[row]) && std::isnan(lse[row])) continue;
      EXPECT_EQ(std::bit_cast<uint32_t>(lse[row]), std::bit_cast<uint32_t>(want[row]))
          << "row " << row << " of " << args.vocab;
    }
  }

  void ExpectEqualDraws(Tensor& logits, const std::vector<TokenDraw>& draws) {
    std::vector<int32_t> want(draws.size(), -1);
    ASSERT_OK(reference_->DrawTokens(logits.view(), draws, want));
    const std::vector<int32_t> got = RunDraws(logits, draws);
    for (size_t i = 0; i < draws.size(); ++i) {
      const TokenDraw& draw = draws[i];
      ASSERT_EQ(got[i], want[i]) << "row " << draw.row << " of " << logits.view().dim(1) << " T "
                                 << draw.temperature << " k " << draw.top_k << " p " << draw.top_p
                                 << " min_p " << draw.min_p << " u " << draw.uniform << " edits "
                                 << draw.edits.size();
    }
  }

  // Ids are written once; the logits are as before.
  std::vector<int32_t> RunDraws(Tensor& logits, const std::vector<TokenDraw>& draws) {
    const int64_t vocab = logits.view().dim(1);
    std::vector<DrawParams> params;
    std::vector<LogitEdit> edits;
    for (const TokenDraw& draw : draws) {
      params.push_back({draw.uniform, static_cast<int32_t>(draw.row),
                        static_cast<int32_t>(edits.size()), static_cast<int32_t>(draw.edits.size()),
                        draw.temperature, draw.top_k, draw.top_p, draw.min_p});
      edits.insert(edits.end(), draw.edits.begin(), draw.edits.end());
    }
    const auto num_draws = static_cast<int64_t>(draws.size());
    const auto num_edits = static_cast<int64_t>(edits.size());
    std::vector<float> scratch(
        static_cast<size_t>(DrawScratchBytes(num_draws, num_edits, vocab)) / sizeof(float), kNaN);
    std::vector<int32_t> ids(draws.size(), -1);
    const std::vector<float> before(Elements<float>(logits).begin(), Elements<float>(logits).end());
    SimulatedMemory memory;
    memory.AddOutput(Elements<float>(logits));
    memory.AddInput(std::span<const DrawParams>(params));
    memory.AddInput(std::span<const LogitEdit>(edits));
    memory.AddOutput(std::span<int32_t>(ids));
    memory.AddOutput(std::span<float>(scratch));
    const DrawArgs args{logits.data_as<float>(),
                        params.data(),
                        edits.data(),
                        ids.data(),
                        scratch.data(),
                        static_cast<int32_t>(num_draws),
                        static_cast<int32_t>(num_edits),
                        static_cast<int32_t>(vocab),
                        WeightUnit(vocab)};
    RunGathering(args.num_draws, memory, [&](SimulatedThread& thread) { Draw::Run(thread, args); });
    ExpectWritten(memory, std::span<const int32_t>(ids), 1);
    EXPECT_EQ(std::memcmp(before.data(), logits.data_as<float>(), before.size() * sizeof(float)), 0)
        << "the edits were not taken back";
    return ids;
  }

  // Keys and weights that are gathered go to slots as they come; nothing else meets a bank twice.
  static void RunGathering(int items, SimulatedMemory& memory,
                           const std::function<void(SimulatedThread&)>& kernel) {
    const ScopedFlushDenormals flush;
    const SimulationReport report = Simulate(ShapeOf(VocabRowGrid(items)), memory, kernel);
    for (const std::string& error : report.errors) ADD_FAILURE() << error;
    EXPECT_LE(report.bank_conflicts, int64_t{4} * kGatherTokens * items);
  }

  void ExpectEqualScores(const Tensor& logits, const std::vector<ScoreRequest>& requests) {
    constexpr int kMaxCandidates = 21;
    std::vector<TokenScore> want(requests.size());
    ASSERT_OK(reference_->ScoreTokens(logits.view(), requests, want));
    std::vector<ScoreParams> params;
    for (const ScoreRequest& request : requests) {
      params.push_back({static_cast<int32_t>(request.row), request.id, request.temperature,
                        request.lse, request.candidate_count});
    }
    std::vector<float> logprobs(requests.size());
    std::vector<int32_t> ranks(requests.size());
    std::vector<int32_t> ids(requests.size() * kMaxCandidates, -1);
    std::vector<float> candidate_logprobs(ids.size());
    SimulatedMemory memory;
    memory.AddInput(Elements<float>(logits));
    memory.AddInput(std::span<const ScoreParams>(params));
    memory.AddOutput(std::span<float>(logprobs));
    memory.AddOutput(std::span<int32_t>(ranks));
    memory.AddOutput(std::span<int32_t>(ids));
    memory.AddOutput(std::span<float>(candidate_logprobs));
    const ScoreArgs args{logits.data_as<float>(),
                         params.data(),
                         logprobs.data(),
                         ranks.data(),
                         ids.data(),
                         candidate_logprobs.data(),
                         static_cast<int32_t>(requests.size()),
                         kMaxCandidates,
                         static_cast<int32_t>(logits.view().dim(1))};
    RunGathering(args.num_requests, memory,
                 [&](SimulatedThread& thread) { Score::Run(thread, args); });
    ExpectWritten(memory, std::span<const float>(logprobs), 1);
    ExpectWritten(memory, std::span<const int32_t>(ranks), 1);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(logprobs[i]), std::bit_cast<uint32_t>(want[i].logprob));
      EXPECT_EQ(ranks[i], want[i].rank);
      for (size_t c = 0; c < kMaxCandidates; ++c) {
        const size_t at = i * kMaxCandidates + c;
        const bool is_wanted = c < want[i].candidates.size();
        ASSERT_EQ(memory.CountWrites(&ids[at], sizeof(int32_t)), is_wanted ? 1 : 0);
        ASSERT_EQ(memory.CountWrites(&candidate_logprobs[at], sizeof(float)), is_wanted ? 1 : 0);
        if (!is_wanted) continue;
        EXPECT_EQ(ids[at], want[i].candidates[c].id) << "place " << c;
        EXPECT_EQ(std::bit_cast<uint32_t>(candidate_logprobs[at]),
                  std::bit_cast<uint32_t>(want[i].candidates[c].logprob));
      }
    }
  }

  std::mt19937 random_{5};
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
};

TEST_F(VocabKernelTest, LogSumExp) {
  for (const int64_t vocab : {1, 15, 17, 1000, 4099, kTileTokens, 2 * kTileTokens + 1}) {
    const Tensor logits = Logits(kNumKinds, vocab);
    std::vector<float> temperatures;
    for (int row = 0; row < kNumKinds; ++row) {
      temperatures.push_back(OneOf({1.0f, 0.7f, 100.0f, 1e-4f}));
    }
    ExpectEqualSums(logits, temperatures);
  }
}

// Each small term is rounded as it meets the large one: another order shows.
TEST_F(VocabKernelTest, LogSumExpAddsInOrder) {
  constexpr int64_t kRows = 8;
  Tensor logits(DType::kF32, {kRows, 4099});
  std::normal_distribution<float> normal(-9.0f);
  for (float& logit : Elements<float>(logits)) logit = normal(random_);
  for (int64_t row = 0; row < kRows; ++row) logits.data_as<float>()[row * 4099 + row] = 0.0f;
  ExpectEqualSums(logits, std::vector<float>(kRows, 1.0f));
}

TEST_F(VocabKernelTest, LogSumExpOfWhatIsNotFinite) {
  Tensor logits = Logits(5, 1000);
  float* rows = logits.data_as<float>();
  rows[3] = kNaN;
  rows[1999] = kInf;
  rows[2500] = -kInf;
  rows[3000] = -kNaN;
  ExpectEqualSums(logits, {0.5f, 0.5f, 0.5f, 0.5f, 0.5f});
}

TEST_F(VocabKernelTest, Draws) {
  for (const int64_t vocab : {1, 2, 17, 1000, 4099}) {
    Tensor logits = Logits(kNumKinds, vocab);
    for (int round = 0; round < 10; ++round) {
      std::vector<TokenDraw> draws;
      for (int64_t row = round % 2; row < kNumKinds; ++row) draws.push_back(RandomDraw(row));
      ExpectEqualDraws(logits, draws);
    }
  }
}

// Token 0 weighs less than half a unit: nothing, even for a uniform of 0.
TEST_F(VocabKernelTest, WeightsAreRounded) {
  Tensor logits(DType::kF32, {1, 2});
  logits.data_as<float>()[0] = -60.0f;
  ExpectEqualDraws(logits, {{.row = 0, .edits = {}, .uniform = 0.0}});
}

TEST_F(VocabKernelTest, EditedDraws) {
  for (const int64_t vocab : {1, 17, 1000}) {
    Tensor logits = Logits(kNumKinds, vocab);
    for (int round = 0; round < 4; ++round) {
      std::vector<std::vector<LogitEdit>> edits;
      for (int64_t row = 0; row < kNumKinds; ++row) {
        edits.push_back(RandomEdits(vocab, static_cast<int64_t>(random_()) % (vocab + 1)));
      }
      std::vector<TokenDraw> draws;
      for (int64_t row = 0; row < kNumKinds; ++row) {
        draws.push_back(RandomDraw(row));
        draws.back().edits = edits[static_cast<size_t>(row)];
      }
      ExpectEqualDraws(logits, draws);
    }
  }
}

TEST_F(VocabKernelTest, WhenEveryTokenIsMaskedItIsTokenZero) {
  Tensor logits = Logits(2, 600);
  std::vector<LogitEdit> mask;
  for (int32_t id = 0; id < 600; ++id) mask.push_back({.id = id, .offset = -kInf});
  ExpectEqualDraws(logits, {{.row = 0, .edits = mask, .top_k = 5, .top_p = 0.5f, .uniform = 0.5},
                            {.row = 1, .edits = mask, .temperature = 0.0f}});
  // All but one.
  mask.erase(mask.begin() + 577);
  ExpectEqualDraws(logits, {{.row = 0, .edits = mask, .top_p = 0.5f, .uniform = kBelowOne},
                            {.row = 1, .edits = mask, .top_k = 3, .uniform = kBelowOne}});
}

// More tokens than are gathered, at the size of a real vocabulary. The constant row's border is
// among equal logits.
TEST_F(VocabKernelTest, DrawsFromALargeVocabulary) {
  Tensor logits = Logits(4, 200064);
  ExpectEqualDraws(logits,
                   {{.row = 0, .edits = {}, .top_p = 0.95f, .uniform = 0.7},
                    {.row = 1, .edits = {}, .temperature = 0.0f},
                    {.row = 2, .edits = {}, .top_k = 50, .min_p = 0.05f, .uniform = 0.2},
                    {.row = 3, .edits = {}, .top_k = 150001, .top_p = 0.9f, .uniform = kBelowOne}});
}

TEST_F(VocabKernelTest, LogSumExpOfALargeVocabulary) { ExpectEqualSums(Logits(1, 200064), {0.9f}); }

TEST_F(VocabKernelTest, Scores) {
  for (const int64_t vocab : {1, 17, 1000, 4099}) {
    const Tensor logits = Logits(kNumKinds, vocab);
    std::vector<ScoreRequest> requests;
    for (int64_t row = 0; row < kNumKinds; ++row) {
      for (const int32_t candidates : {0, 1, 20}) {
        requests.push_back({.row = row,
                            .id = static_cast<int32_t>(random_() % static_cast<uint32_t>(vocab)),
                            .temperature = OneOf({1.0f, 0.7f}),
                            .lse = OneOf({0.0f, 3.7f}),
                            .candidate_count = candidates});
      }
    }
    ExpectEqualScores(logits, requests);
  }
}

// Candidates are the first of 5 000 equal logits, and the last token has the last rank.
TEST_F(VocabKernelTest, ScoresAmongEqualLogits) {
  const Tensor logits(DType::kF32, {1, 5000});
  ExpectEqualScores(logits, {{.row = 0, .id = 4999, .candidate_count = 20},
                             {.row = 0, .id = 0, .candidate_count = 1}});
}

}  // namespace
}  // namespace m1::cuda
