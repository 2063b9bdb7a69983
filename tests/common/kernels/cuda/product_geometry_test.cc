// The index maps of the product, swept in full for every shape in use.
#include "common/kernels/cuda/product_geometry.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "common/kernels/cuda/product_args.h"

namespace m1::cuda {
namespace {

template <typename Shape>
class ProductGeometryTest : public testing::Test {};

using Shapes = testing::Types<LinearOne, LinearFew, LinearMany, GatedOne, GatedFew, GatedMany,
                              SplitOne, SplitFew, SplitMany>;
TYPED_TEST_SUITE(ProductGeometryTest, Shapes);

// Of two blocks at once where many rows want the arithmetic of both.
TYPED_TEST(ProductGeometryTest, SharedMemoryFitsEveryArchitecture) {
  for (const int capability : {80, 90, 100}) {
    EXPECT_LE(TypeParam::kSharedBytes, MaxSharedBytes(capability));
  }
  EXPECT_LE(TypeParam::kThreads, 1024);
}

// 64K registers hold two blocks of the accumulators beside as much again.
TYPED_TEST(ProductGeometryTest, AccumulatorsLeaveRegistersFree) {
  EXPECT_LE(TypeParam::kMatrices * TypeParam::kParts * TypeParam::kTilesM * TypeParam::kTilesN * 4,
            96);
}

TYPED_TEST(ProductGeometryTest, EveryChunkHasBytesOfItsOwn) {
  std::set<int> offsets;
  for (int row = 0; row < TypeParam::kStageRows; ++row) {
    for (int chunk = 0; chunk < kRowChunks; ++chunk) {
      const int offset = SharedOffset(row, chunk);
      EXPECT_EQ(offset % kChunkBytes, 0);
      EXPECT_GE(offset, 0);
      EXPECT_LE(offset + kChunkBytes, TypeParam::kStageBytes);
      offsets.insert(offset);
    }
  }
  EXPECT_EQ(static_cast<int>(offsets.size()), TypeParam::kStageRows * kRowChunks);
}

TYPED_TEST(ProductGeometryTest, EveryChunkIsCopiedOnce) {
  std::map<std::pair<int, int>, int> copies;
  for (int thread = 0; thread < TypeParam::kThreads; ++thread) {
    for (int copy = 0; copy < TypeParam::kCopies; ++copy) {
      const StageChunk to = CopiedChunk<TypeParam>(thread, copy);
      ++copies[{to.row, to.chunk}];
    }
  }
  EXPECT_EQ(static_cast<int>(copies.size()), TypeParam::kStageRows * kRowChunks);
  for (const auto& [chunk, count] : copies) {
    EXPECT_EQ(count, 1);
    EXPECT_LT(chunk.first, TypeParam::kStageRows);
  }
}

TYPED_TEST(ProductGeometryTest, EveryElementOfTheTileHasOneOwner) {
  std::map<std::pair<int, int>, int> owners;
  for (int thread = 0; thread < TypeParam::kThreads; ++thread) {
    for (int m = 0; m < TypeParam::kTilesM; ++m) {
      for (int n = 0; n < TypeParam::kTilesN; ++n) {
        for (int i = 0; i < 4; ++i) {
          const TileElement at =
              AccumulatorElement<TypeParam>(thread / kWarpLanes, thread % kWarpLanes, m, n, i);
          ++owners[{at.feature, at.token}];
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(owners.size()), TypeParam::kFeatures * TypeParam::kTokens);
  for (const auto& [element, count] : owners) {
    EXPECT_EQ(count, 1);
    EXPECT_LT(element.first, TypeParam::kFeatures);
    EXPECT_LT(element.second, TypeParam::kTokens);
  }
}

// ldmatrix takes eight rows of 16 bytes at a time: they must cover all 32 banks.
void ExpectNoConflict(const std::vector<StageChunk>& lanes) {
  for (size_t first = 0; first < lanes.size(); first += 8) {
    std::set<int> banks;
    for (size_t lane = first; lane < first + 8; ++lane) {
      banks.insert(SharedOffset(lanes[lane].row, lanes[lane].chunk) % kSharedRowBytes);
    }
    EXPECT_EQ(banks.size(), 8u);
  }
}

// Operand A of a K step: rows of the warp's features, both chunks of the step; and each row and
// chunk of the weights' part of the stage is somebody's operand.
TYPED_TEST(ProductGeometryTest, WeightsAreReadWholeAndWithoutConflicts) {
  std::set<std::pair<int, int>> read;
  for (int warp = 0; warp < TypeParam::kThreads / kWarpLanes; ++warp) {
    for (int matrix = 0; matrix < TypeParam::kMatrices; ++matrix) {
      for (int m = 0; m < TypeParam::kTilesM; ++m) {
        for (int step = 0; step < kSliceK / kMmaK; ++step) {
          std::vector<StageChunk> lanes;
          for (int lane = 0; lane < kWarpLanes; ++lane) {
            const StageChunk at = WeightChunk<TypeParam>(warp, lane, matrix, m, step);
            EXPECT_EQ(at.chunk / 2, step);
            EXPECT_LT(at.row, TypeParam::kWeightRows);
            read.insert({at.row, at.chunk});
            lanes.push_back(at);
          }
          ExpectNoConflict(lanes);
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(read.size()), TypeParam::kWeightRows * kRowChunks);
}

TYPED_TEST(ProductGeometryTest, TokensAreReadWholeAndWithoutConflicts) {
  std::set<std::pair<int, int>> read;
  for (int warp = 0; warp < TypeParam::kThreads / kWarpLanes; ++warp) {
    for (int part = 0; part < TypeParam::kParts; ++part) {
      for (int n = 0; n < TypeParam::kTilesN; ++n) {
        for (int half = 0; half < 2; ++half) {
          std::vector<StageChunk> lanes;
          for (int lane = 0; lane < kWarpLanes; ++lane) {
            const StageChunk at = TokenChunk<TypeParam>(warp, lane, part, n, half);
            EXPECT_GE(at.row, TypeParam::kWeightRows);
            EXPECT_LT(at.row, TypeParam::kStageRows);
            read.insert({at.row, at.chunk});
            lanes.push_back(at);
          }
          ExpectNoConflict(lanes);
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(read.size()), TypeParam::kParts * TypeParam::kTokens * kRowChunks);
}

TEST(FindRowTileTest, WalksTheTilesOfAllGroupsInOrder) {
  const std::vector<int> rows = {3, 0, 16, 17, 0, 1};
  const auto num_rows = [&](int group) { return rows[static_cast<size_t>(group)]; };
  const std::vector<std::pair<int, int>> want = {{0, 0}, {2, 0}, {2, 1}, {3, 0},
                                                 {3, 1}, {3, 2}, {5, 0}, {-1, 0}};
  for (size_t block = 0; block < want.size(); ++block) {
    const RowTile tile = FindRowTile(static_cast<int>(block), 6, 8, num_rows);
    EXPECT_EQ((std::pair{tile.group, tile.tile}), want[block]) << "block " << block;
  }
}

TEST(ProductGridTest, HasABlockForEveryTileAndNoMore) {
  ProductArgs args;
  args.num_groups = 3;
  args.groups[0].num_rows = 9;
  args.groups[1].num_rows = 0;
  args.groups[2].num_rows = 8;
  args.groups[0].n = 33;
  args.groups[2].n = 64;
  const LaunchGrid grid = ProductGrid<LinearOne>(args);
  EXPECT_EQ(grid.blocks.x, 3);
  EXPECT_EQ(grid.blocks.y, 2);
  EXPECT_EQ(grid.threads, 64);
  EXPECT_EQ(LargestGroupRows(args), 9);
}

TEST(ClassifyRowsTest, ChoosesByTheLargestGroup) {
  EXPECT_EQ(ClassifyRows(1), RowCount::kOne);
  EXPECT_EQ(ClassifyRows(8), RowCount::kOne);
  EXPECT_EQ(ClassifyRows(9), RowCount::kFew);
  EXPECT_EQ(ClassifyRows(32), RowCount::kFew);
  EXPECT_EQ(ClassifyRows(33), RowCount::kMany);
}

}  // namespace
}  // namespace m1::cuda
