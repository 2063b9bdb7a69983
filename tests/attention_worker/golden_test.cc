// The forward pass and the engine against the golden checkpoints, fp32 activations.
#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/local_model.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr double kTolerance = 2e-4;
constexpr double kWeightTolerance = 2e-5;

class GoldenTest : public testing::TestWithParam<std::string> {};

// The fast kernels: one_answer_test shows that the plain loops give the same bits.
LocalModelOptions Options(const ModelConfig& config) {
  LocalModelOptions options;
  options.target = "";
  options.shards.emplace_back();
  for (int32_t expert = 0; expert < config.num_experts; ++expert) {
    options.shards[0].push_back(expert);
  }
  return options;
}

ModelConfig ConfigOf(const GoldenCheckpoint& golden) {
  auto config = LoadModelConfig(golden.directory);
  EXPECT_TRUE(config.ok());
  return *std::move(config);
}

SequenceStart StartOf(const GoldenCase& golden) {
  SequenceStart start;
  start.token_ids = golden.prompt_ids;
  start.prompt_token_count = static_cast<int32_t>(golden.prompt_ids.size());
  start.sampling.temperature = 0.0F;
  start.max_new_tokens = static_cast<int32_t>(golden.greedy_ids.size());
  start.prompt_logprobs = true;
  return start;
}

TEST_P(GoldenTest, LogprobsAndGreedyTokens) {
  const GoldenCheckpoint golden = LoadGolden(GetParam());
  LocalModel model(golden.directory, Options(ConfigOf(golden)));
  std::vector<SequenceStart> starts;
  for (const GoldenCase& golden_case : golden.cases) starts.push_back(StartOf(golden_case));
  const std::vector<SequenceResult> results = model.Run(starts);
  double worst = 0.0;
  for (size_t c = 0; c < results.size(); ++c) {
    const GoldenCase& expected = golden.cases[c];
    const SequenceResult& result = results[c];
    ASSERT_EQ(result.prompt.size(), expected.prompt_ids.size());
    for (size_t i = 0; i < result.prompt.size(); ++i) {
      EXPECT_EQ(result.prompt[i].id, expected.prompt_ids[i]);
      worst = std::max(
          worst, std::abs(double{result.prompt[i].logprob} - double{expected.prompt_logprobs[i]}));
    }
    ASSERT_EQ(result.tokens.size(), expected.greedy_ids.size());
    for (size_t i = 0; i < result.tokens.size(); ++i) {
      EXPECT_EQ(result.tokens[i].id, expected.greedy_ids[i]) << expected.name << " token " << i;
      EXPECT_EQ(result.tokens[i].rank, 1);
      worst = std::max(
          worst, std::abs(double{result.tokens[i].logprob} - double{expected.greedy_logprobs[i]}));
    }
    EXPECT_EQ(result.finished->end, SequenceEnd::kLength);
  }
  std::printf("%s: largest logprob error %.3g\n", GetParam().c_str(), worst);
  EXPECT_LE(worst, kTolerance);
}

// Compares what a tap sees with the recorded arrays.
class ComparingTap final : public ForwardTap {
 public:
  ComparingTap(const GoldenCheckpoint& golden, std::string case_name)
      : golden_(golden), case_(std::move(case_name)) {}

  void OnStep(const StepBatch& batch) override { first_token_ = batch.positions.at(0); }
  void OnAttention(int32_t layer, ConstTensorView branch) override {
    CompareFloats("attention_out", layer, branch, kTolerance);
  }
  void OnGate(int32_t layer, ConstTensorView logits, ConstTensorView ids,
              ConstTensorView weights) override {
    CompareFloats("router_logits", layer, logits, kTolerance);
    CompareFloats("router_weights", layer, weights, kWeightTolerance);
    const ConstTensorView expected =
        golden_.array(case_, "router_experts")[layer].Rows(first_token_, ids.dim(0));
    for (int64_t i = 0; i < ids.num_elements(); ++i) {
      EXPECT_EQ(ids.data_as<int32_t>()[i], expected.data_as<int32_t>()[i]);
    }
  }
  void OnLayer(int32_t layer, ConstTensorView hidden) override {
    CompareFloats("hidden", layer, hidden, kTolerance);
    ++num_layers_;
  }
  int num_layers() const { return num_layers_; }

 private:
  void CompareFloats(const std::string& name, int32_t layer, ConstTensorView got,
                     double tolerance) {
    const ConstTensorView expected =
        golden_.array(case_, name)[layer].Rows(first_token_, got.dim(0));
    ASSERT_EQ(got.num_elements(), expected.num_elements());
    double worst = 0.0;
    for (int64_t i = 0; i < got.num_elements(); ++i) {
      worst = std::max(
          worst, std::abs(double{got.data_as<float>()[i]} - double{expected.data_as<float>()[i]}));
    }
    EXPECT_LE(worst, tolerance) << case_ << "." << name << " layer " << layer;
  }

  const GoldenCheckpoint& golden_;
  const std::string case_;
  int64_t first_token_ = 0;
  int num_layers_ = 0;
};

// The state as if the open chunk ended at its last token: S and the rows since the grid line,
// decayed.
std::vector<double> FoldedState(const LightningSequence& memory, std::span<const float> decays,
                                int64_t open_rows) {
  const int64_t heads = memory.state.dim(0);
  const int64_t dim = memory.state.dim(1);
  const float* k = memory.open_k.data_as<float>();
  const float* v = memory.open_v.data_as<float>();
  std::vector<double> folded;
  for (int64_t head = 0; head < heads; ++head) {
    const double s = decays[static_cast<size_t>(head)];
    for (int64_t c = 0; c < dim; ++c) {
      for (int64_t e = 0; e < dim; ++e) {
        double sum = memory.state.data_as<float>()[(head * dim + c) * dim + e] *
                     std::exp(-s * static_cast<double>(open_rows));
        for (int64_t b = 0; b < open_rows; ++b) {
          const int64_t row = (head * kLightningChunk + b) * dim;
          sum += std::exp(-s * static_cast<double>(open_rows - 1 - b)) * k[row + c] * v[row + e];
        }
        folded.push_back(sum);
      }
    }
  }
  return folded;
}

void RunPrompt(ForwardPass& forward, const std::vector<int32_t>& ids, int64_t rows_per_step) {
  std::vector<int32_t> blocks;
  for (int32_t b = 0; b <= static_cast<int32_t>(ids.size()) / kKvBlockTokens; ++b) {
    blocks.push_back(b);
  }
  ASSERT_OK(forward.ResetSlot(0));
  const auto total = static_cast<int64_t>(ids.size());
  for (int64_t first = 0; first < total; first += rows_per_step) {
    StepBatch batch;
    const int64_t rows = std::min(rows_per_step, total - first);
    for (int64_t i = 0; i < rows; ++i) {
      batch.token_ids.push_back(ids[static_cast<size_t>(first + i)]);
      batch.positions.push_back(first + i);
    }
    batch.sequences.push_back({{0, rows, first}, 0, blocks});
    ASSERT_TRUE(forward
                    .Run(batch, [](int64_t, TensorView,
                                   std::span<const float>) { return absl::OkStatus(); })
                    .ok());
  }
}

TEST_P(GoldenTest, ArraysAndStates) {
  const GoldenCheckpoint golden = LoadGolden(GetParam());
  LocalModel model(golden.directory, Options(ConfigOf(golden)));
  const ModelConfig& config = model.config();
  for (const GoldenCase& golden_case : golden.cases) {
    if (!golden_case.has_states) continue;
    ComparingTap tap(golden, golden_case.name);
    model.forward().set_tap(golden_case.has_arrays ? &tap : nullptr);
    RunPrompt(model.forward(), golden_case.prompt_ids, 50);
    if (golden_case.has_arrays) {
      EXPECT_EQ(tap.num_layers(),
                config.num_layers * static_cast<int>((golden_case.prompt_ids.size() + 49) / 50));
    }
    const ConstTensorView expected = golden.array(golden_case.name, "lightning_states");
    const auto open_rows = static_cast<int64_t>(golden_case.prompt_ids.size()) % kLightningChunk;
    int32_t index = 0;
    double worst = 0.0;
    for (int32_t layer = 0; layer < config.num_layers; ++layer) {
      if (config.layer_kinds[static_cast<size_t>(layer)] != LayerKind::kLightning) continue;
      const std::vector<double> folded =
          FoldedState(model.forward().linear_state().sequence(0, index, {}),
                      LightningDecays(config, layer), open_rows);
      const float* want = expected[index].data_as<float>();
      for (size_t i = 0; i < folded.size(); ++i) {
        worst = std::max(worst, std::abs(folded[i] - double{want[i]}));
      }
      ++index;
    }
    EXPECT_EQ(index, expected.dim(0));
    EXPECT_LE(worst, kTolerance) << golden_case.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace m1
