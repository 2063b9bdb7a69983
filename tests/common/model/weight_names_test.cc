// The names that the loader asks for against the index of the real MiniMax-M1.
#include "common/model/weight_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <memory>
#include <set>
#include <string>

#include "common/model/tensor_table.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

std::string ReadGzip(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  EXPECT_NE(file, nullptr);
  std::string text;
  std::string piece(1 << 16, '\0');
  int count = 0;
  while ((count = gzread(file.get(), piece.data(), static_cast<unsigned>(piece.size()))) > 0) {
    text.append(piece, 0, static_cast<size_t>(count));
  }
  EXPECT_EQ(count, 0);
  return text;
}

TEST(WeightNamesTest, AreExactlyThoseOfTheRealIndex) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig("tests/golden/minimax-m1"));
  ASSERT_OK_AND_ASSIGN(
      const WeightMap weight_map,
      ParseWeightMap(ReadGzip("tests/golden/minimax-m1/model.safetensors.index.json.gz")));
  std::set<std::string> indexed;
  std::set<std::string> files;
  for (const auto& [name, file] : weight_map) {
    indexed.insert(name);
    files.insert(file);
  }
  std::set<std::string> asked;
  int64_t num_visits = 0;
  int64_t bytes = 0;
  ASSERT_OK(ForEachTensor(config, ExpertLayout::kSeparate, [&](const TensorSpec& spec) {
    asked.insert(spec.name);
    ++num_visits;
    bytes += spec.shape.num_elements() * (spec.slot == TensorSlot::kGate ? 4 : 2);
    return absl::OkStatus();
  }));
  EXPECT_EQ(asked, indexed);
  EXPECT_EQ(num_visits, static_cast<int64_t>(asked.size()));
  EXPECT_EQ(files.size(), 413U);
  // The size of the published files.
  EXPECT_EQ(bytes, 912210767872);
}

TEST(WeightNamesTest, StopsAtTheVisitorsFirstError) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(TinyConfig().dump()));
  int num_visits = 0;
  EXPECT_THAT(ForEachTensor(config, ExpertLayout::kSeparate,
                            [&](const TensorSpec&) {
                              return ++num_visits == 5 ? absl::DataLossError("five")
                                                       : absl::OkStatus();
                            }),
              StatusIs(absl::StatusCode::kDataLoss, "five"));
  EXPECT_EQ(num_visits, 5);
}

}  // namespace
}  // namespace m1
