// gpu_bench on the simulated GPU, where its times mean nothing: that every operation runs within
// its contract, and what the report says.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "common/model/config.h"
#include "tests/bench/gpu_report.h"

namespace m1 {
namespace {

ModelConfig TinyConfig() {
  auto config = LoadModelConfig("models/tiny");
  EXPECT_TRUE(config.ok());
  return *std::move(config);
}

GpuBenchOptions SmallOptions() {
  return {.decode_rows = {1, 2},
          .prefill_rows = {40},
          .context = 70,
          .weight_bytes = int64_t{8} << 20,
          .result_bytes = int64_t{4} << 20,
          .ceiling_bytes = int64_t{1} << 16,
          .peak_steps = 2,
          .calls = 1,
          .repeats = 1};
}

TEST(GpuBenchTest, EveryOperationRunsAndIsReported) {
  GpuReport report;
  auto bench = GpuBench::Create(
      SmallOptions(), [&report](const GpuFigure& figure) { report.figures.push_back(figure); });
  ASSERT_TRUE(bench.ok()) << bench.status();
  report.ceilings = (*bench)->MeasureCeilings();
  EXPECT_GT(report.ceilings.bytes_per_s(), 0);
  EXPECT_GT(report.ceilings.bf16_per_s, 0);
  (*bench)->Run(TinyConfig());
  std::set<std::string> ops;
  for (const GpuFigure& figure : report.figures) {
    ops.insert(figure.op);
    EXPECT_GT(figure.seconds, 0) << figure.op;
    EXPECT_GT(figure.work.bytes, 0) << figure.op;
  }
  EXPECT_EQ(ops, (std::set<std::string>{"AppendKv", "CombineExperts", "CopyRows", "DrawTokens",
                                        "Embed", "ExpertFfn", "LightningAttention", "Linear",
                                        "LogSumExp", "RmsNorm", "Rotary", "Round", "ScaledAdd",
                                        "ScoreTokens", "SharedExpertMix", "SigmoidMul",
                                        "SoftmaxAttention", "TopKGate"}));
  const nlohmann::json json = nlohmann::json::parse(JsonOf(report));
  EXPECT_EQ(json["kernels"].size(), report.figures.size());
  // The last operation left no fault behind it.
  Tensor back(DType::kI8, {1});
  EXPECT_TRUE(
      (*bench)->backend().Download((*bench)->weights().Next(DType::kI8, {1}), back.view()).ok());
}

TEST(GpuBenchTest, ALayerPairRunsInEveryPhase) {
  auto bench = GpuBench::Create(SmallOptions(), [](const GpuFigure&) {});
  ASSERT_TRUE(bench.ok()) << bench.status();
  const auto figures = MeasureLayerPair(
      TinyConfig(), &(*bench)->backend(), (*bench)->stream(), &(*bench)->weights(),
      {.decode_rows = {1, 2}, .prefill_rows = {9}, .context = 64, .steps = 2, .repeats = 1});
  ASSERT_TRUE(figures.ok()) << figures.status();
  ASSERT_EQ(figures->size(), 5U);
  EXPECT_EQ((*figures)[1].phase, "decode with head");
  EXPECT_EQ((*figures)[4].phase, "prefill");
  for (const LayerPairFigure& figure : *figures) EXPECT_GT(figure.tokens_per_s(), 0);
}

TEST(GpuBenchTest, AFigureAboveACeilingIsImpossible) {
  GpuReport report;
  report.ceilings = {.copy_bytes_per_s = 100,
                     .read_bytes_per_s = 200,
                     .bf16_per_s = 10,
                     .int8_per_s = 10,
                     .float_per_s = 10};
  report.figures = {{"Fits", "", {.bytes = 200, .operations = 10}, 1.0},
                    {"TooFast", "", {.bytes = 201, .operations = 0}, 1.0},
                    {"TooMuch", "", {.bytes = 0, .operations = 11}, 1.0}};
  report.errors = ImpossibleFigures(report);
  ASSERT_EQ(report.errors.size(), 2U);
  EXPECT_EQ(report.errors[0], "TooFast : 100.5 % of what the GPU can do");
  EXPECT_EQ(nlohmann::json::parse(JsonOf(report))["errors"].size(), 2U);
  EXPECT_NE(TableOf(report).find("error: TooMuch"), std::string::npos);
}

}  // namespace
}  // namespace m1
