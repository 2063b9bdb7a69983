// From counts to drawn tokens against Hugging Face's logits processors: tests/golden/sampling.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "attention_worker/logit_editor.h"
#include "attention_worker/philox.h"
#include "common/kernels/cpu_backend.h"
#include "common/model/safetensors.h"
#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr char kFolder[] = "tests/golden/sampling";
constexpr int kDraws = 20000;

struct Case {
  std::string name;
  SequenceStart start;
  std::vector<int32_t> tokens;  // prompt and generated
  std::vector<float> logits;
  std::vector<float> processed;
  std::vector<float> probabilities;
};

class Goldens {
 public:
  Goldens() : arrays_(SafetensorsFile::Open(kFolder, "cases.safetensors").value()) {
    std::ifstream file(std::string(kFolder) + "/cases.json");
    const nlohmann::json json = nlohmann::json::parse(file);
    const std::vector<int32_t> prompt = json["prompt_ids"];
    const std::vector<int32_t> generated = json["generated_ids"];
    for (const nlohmann::json& entry : json["cases"]) {
      Case& read = cases.emplace_back();
      const std::string number = std::to_string(cases.size() - 1);
      read.name = number + " " + entry.dump();
      read.tokens = prompt;
      read.tokens.insert(read.tokens.end(), generated.begin(), generated.end());
      read.start.prompt_token_count = static_cast<int32_t>(prompt.size());
      read.start.stop_token_ids = json["stop_token_ids"].get<std::vector<int32_t>>();
      read.start.min_new_tokens = entry["min_new_tokens"];
      read.start.sampling = {.temperature = entry["temperature"],
                             .top_p = entry["top_p"],
                             .top_k = entry["top_k"],
                             .min_p = entry["min_p"],
                             .repetition_penalty = entry["repetition_penalty"],
                             .presence_penalty = entry["presence_penalty"],
                             .frequency_penalty = entry["frequency_penalty"],
                             .logit_bias = entry["logit_bias"]};
      read.logits = Array(number + ".logits");
      read.processed = Array(number + ".processed");
      read.probabilities = Array(number + ".probabilities");
    }
  }

  std::vector<Case> cases;

 private:
  std::vector<float> Array(const std::string& name) const {
    for (const SafetensorsEntry& entry : arrays_->entries()) {
      if (entry.name != name) continue;
      const ConstTensorView view = arrays_->view(entry);
      return {view.data_as<float>(), view.data_as<float>() + view.num_elements()};
    }
    ADD_FAILURE() << "no array " << name;
    return {};
  }

  std::unique_ptr<SafetensorsFile> arrays_;
};

class SamplingGoldenTest : public testing::Test {
 protected:
  // How often each token is drawn with uniform(i), i < kDraws.
  template <typename Uniform>
  std::vector<int> CountDraws(const Case& golden, Uniform uniform) {
    LogitEditor editor(golden.start);
    const SamplingParams& sampling = golden.start.sampling;
    TokenDraw draw{.row = 0,
                   .edits = editor.Next(golden.tokens),
                   .temperature = sampling.temperature,
                   .top_k = sampling.top_k,
                   .top_p = sampling.top_p,
                   .min_p = sampling.min_p};
    Tensor logits(DType::kF32, {1, static_cast<int64_t>(golden.logits.size())});
    std::copy(golden.logits.begin(), golden.logits.end(), logits.data_as<float>());
    std::vector<int> counts(golden.logits.size());
    for (int i = 0; i < kDraws; ++i) {
      draw.uniform = uniform(i);
      int32_t id = -1;
      EXPECT_OK(backend_->DrawTokens(logits.view(), {&draw, 1}, {&id, 1}));
      ++counts[static_cast<size_t>(id)];
    }
    return counts;
  }

  const Goldens goldens_;
  const std::unique_ptr<KernelBackend> backend_ = CreateCpuBackend({}).value();
};

TEST_F(SamplingGoldenTest, PenaltiesBiasAndMaskAreHuggingFaces) {
  ASSERT_GE(goldens_.cases.size(), 33U);
  for (const Case& golden : goldens_.cases) {
    LogitEditor editor(golden.start);
    std::vector<float> logits = golden.logits;
    for (const LogitEdit& edit : editor.Next(golden.tokens)) {
      float& logit = logits[static_cast<size_t>(edit.id)];
      logit = EditedLogit(logit, edit);
    }
    for (size_t v = 0; v < logits.size(); ++v) {
      const float want = golden.processed[v];
      if (std::isinf(want)) {
        EXPECT_EQ(logits[v], want) << golden.name << " token " << v;
      } else {
        EXPECT_NEAR(logits[v], want, 1e-5F * (1.0F + std::abs(want)))
            << golden.name << " token " << v;
      }
    }
  }
}

// Evenly spaced numbers give every probability to 1 / kDraws.
TEST_F(SamplingGoldenTest, ProbabilitiesAreHuggingFaces) {
  for (const Case& golden : goldens_.cases) {
    const std::vector<int> counts = CountDraws(golden, [](int i) { return (i + 0.5) / kDraws; });
    for (size_t v = 0; v < counts.size(); ++v) {
      EXPECT_NEAR(static_cast<double>(counts[v]) / kDraws, golden.probabilities[v], 1e-4)
          << golden.name << " token " << v;
      EXPECT_TRUE(golden.probabilities[v] > 0.0F || counts[v] == 0) << golden.name;
    }
  }
}

// Of counts against probabilities, tokens expected less than 5 times taken together; over its
// value that chance exceeds once in a million. Above 1: they do not belong together.
double ChiSquaredExcess(const std::vector<int>& counts, const std::vector<float>& probabilities) {
  double statistic = 0.0;
  double rare_expected = 0.0;
  double rare_counted = 0.0;
  int num_cells = 0;
  const auto add_cell = [&](double counted, double expected) {
    statistic += (counted - expected) * (counted - expected) / expected;
    ++num_cells;
  };
  for (size_t v = 0; v < counts.size(); ++v) {
    const double expected = kDraws * static_cast<double>(probabilities[v]);
    if (expected >= 5.0) {
      add_cell(counts[v], expected);
    } else {
      rare_expected += expected;
      rare_counted += counts[v];
    }
  }
  if (rare_expected >= 5.0) add_cell(rare_counted, rare_expected);
  // Wilson and Hilferty's approximation of the quantile.
  constexpr double kOneInAMillion = 4.753;
  const double freedom = std::max(num_cells - 1, 1);
  const double spread = 2.0 / (9.0 * freedom);
  return statistic / (freedom * std::pow(1.0 - spread + kOneInAMillion * std::sqrt(spread), 3.0));
}

TEST_F(SamplingGoldenTest, DrawsOfASeedAreDistributedAsTheyShould) {
  for (const Case& golden : goldens_.cases) {
    for (const uint64_t seed : {uint64_t{1}, uint64_t{0xfeedfacecafe}}) {
      const std::vector<int> counts =
          CountDraws(golden, [&](int i) { return PhiloxUniform(seed, static_cast<uint64_t>(i)); });
      EXPECT_LT(ChiSquaredExcess(counts, golden.probabilities), 1.0) << golden.name;
    }
  }
}

TEST_F(SamplingGoldenTest, TheTestOfDistributionsTellsNeighboursApart) {
  Case golden = goldens_.cases[0];
  golden.start.sampling.temperature = 1.05F;
  const std::vector<int> counts =
      CountDraws(golden, [](int i) { return PhiloxUniform(1, static_cast<uint64_t>(i)); });
  EXPECT_GT(ChiSquaredExcess(counts, golden.probabilities), 1.0);
}

// Greedy draws see the same edits.
TEST_F(SamplingGoldenTest, GreedyTakesTheLargestProcessedLogit) {
  for (Case golden : goldens_.cases) {
    golden.start.sampling.temperature = 0.0F;
    const std::vector<int> counts = CountDraws(golden, [](int) { return 0.0; });
    const auto best = std::max_element(golden.processed.begin(), golden.processed.end());
    EXPECT_EQ(counts[static_cast<size_t>(best - golden.processed.begin())], kDraws) << golden.name;
  }
}

}  // namespace
}  // namespace m1
