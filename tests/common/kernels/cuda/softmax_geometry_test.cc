// The index maps of softmax attention, swept in full for every shape in use.
#include "common/kernels/cuda/softmax_geometry.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "common/kernels/cuda/softmax_args.h"

namespace m1::cuda {
namespace {

template <typename Shape>
class SoftmaxGeometryTest : public testing::Test {};

using Shapes = testing::Types<SoftmaxFew<32>, SoftmaxFew<64>, SoftmaxFew<128>, SoftmaxMany<32>,
                              SoftmaxMany<64>, SoftmaxMany<128>>;
TYPED_TEST_SUITE(SoftmaxGeometryTest, Shapes);

// With the totals, which the kernel by segments does not keep.
TYPED_TEST(SoftmaxGeometryTest, SharedMemoryFitsEveryArchitecture) {
  SoftmaxArgs args{};
  args.max_rows = args.heads = args.kv_heads = 1;
  for (const int capability : {80, 90, 100}) {
    EXPECT_LE(SoftmaxPromptGrid<TypeParam>(args).shared_bytes, MaxSharedBytes(capability));
  }
  EXPECT_LE(TypeParam::kThreads, 1024);
}

// Accumulators, queries and scores; 255 are to be had.
TYPED_TEST(SoftmaxGeometryTest, LeavesRegistersFree) {
  EXPECT_LE(TypeParam::kTiles * (TypeParam::kDimTiles * 4 + TypeParam::kSteps * 2 + kKeyTiles * 6),
            160);
}

TYPED_TEST(SoftmaxGeometryTest, EveryChunkIsCopiedOnceToBytesOfItsOwn) {
  std::map<std::pair<int, int>, int> copies;
  std::set<int> offsets;
  for (int thread = 0; thread < TypeParam::kThreads; ++thread) {
    for (int copy = 0; copy < TypeParam::kMatrixCopies; ++copy) {
      const KeyChunk at = CopiedKeyChunk<TypeParam>(thread, copy);
      ++copies[{at.key, at.chunk}];
      const int offset = KeyOffset<TypeParam>(at);
      EXPECT_EQ(offset % kChunkBytes, 0);
      EXPECT_GE(offset, 0);
      EXPECT_LE(offset + kChunkBytes, TypeParam::kMatrixBytes);
      offsets.insert(offset);
    }
  }
  EXPECT_EQ(static_cast<int>(copies.size()), kKeyBlock * TypeParam::kKeyChunks);
  EXPECT_EQ(offsets.size(), copies.size());
  for (const auto& [chunk, count] : copies) {
    EXPECT_EQ(count, 1);
    EXPECT_LT(chunk.first, kKeyBlock);
  }
}

// ldmatrix takes eight rows of 16 bytes at a time: they must cover all 32 banks.
template <typename Shape>
void ExpectNoConflict(const std::vector<KeyChunk>& lanes) {
  for (size_t first = 0; first < lanes.size(); first += 8) {
    std::set<int> banks;
    for (size_t lane = first; lane < first + 8; ++lane) {
      banks.insert(KeyOffset<Shape>(lanes[lane]) % 128);
    }
    EXPECT_EQ(banks.size(), 8u);
  }
}

// Every key tile takes all its chunks, in the K steps they belong to.
TYPED_TEST(SoftmaxGeometryTest, KeysAreReadOnceAndWithoutConflicts) {
  std::map<std::pair<int, int>, int> reads;
  for (int tile = 0; tile < kKeyTiles; ++tile) {
    for (int step = 0; step < TypeParam::kSteps; ++step) {
      std::vector<KeyChunk> lanes;
      for (int lane = 0; lane < kWarpLanes; ++lane) {
        lanes.push_back(ScoreOperand(lane, tile, step));
        EXPECT_EQ(lanes.back().key / kMmaM, tile);
        EXPECT_EQ(lanes.back().chunk / 2, step);
        ++reads[{lanes.back().key, lanes.back().chunk}];
      }
      ExpectNoConflict<TypeParam>(lanes);
    }
  }
  EXPECT_EQ(static_cast<int>(reads.size()), kKeyBlock * TypeParam::kKeyChunks);
  for (const auto& [chunk, count] : reads) EXPECT_EQ(count, 1);
}

TYPED_TEST(SoftmaxGeometryTest, ValuesAreReadOnceAndWithoutConflicts) {
  std::map<std::pair<int, int>, int> reads;
  for (int step = 0; step < kKeyBlock / kMmaK; ++step) {
    for (int dims = 0; dims < TypeParam::kDimTiles; ++dims) {
      std::vector<KeyChunk> lanes;
      for (int lane = 0; lane < kWarpLanes; ++lane) {
        lanes.push_back(ValueOperand(lane, dims, step));
        EXPECT_EQ(lanes.back().key / kMmaK, step);
        EXPECT_EQ(lanes.back().chunk / 2, dims);
        ++reads[{lanes.back().key, lanes.back().chunk}];
      }
      ExpectNoConflict<TypeParam>(lanes);
    }
  }
  EXPECT_EQ(static_cast<int>(reads.size()), kKeyBlock * TypeParam::kKeyChunks);
  for (const auto& [chunk, count] : reads) EXPECT_EQ(count, 1);
}

TYPED_TEST(SoftmaxGeometryTest, TotalsHaveBytesOfTheirOwnAndABankForEachLane) {
  std::set<int> offsets;
  for (int thread = 0; thread < TypeParam::kThreads; ++thread) {
    for (int tile = 0; tile < TypeParam::kTiles; ++tile) {
      for (int dims = 0; dims < TypeParam::kDimTiles; ++dims) {
        for (int i = 0; i < 4; ++i) {
          const int offset = TotalOffset<TypeParam>(thread, tile, dims, i);
          EXPECT_GE(offset, TypeParam::kStagesBytes);
          EXPECT_LE(offset + 4, TypeParam::kStagesBytes + TypeParam::kTotalBytes);
          EXPECT_EQ(offset / 4 % kWarpLanes, thread % kWarpLanes);
          offsets.insert(offset);
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(offsets.size()) * 4, TypeParam::kTotalBytes);
}

TEST(AccumulatorTest, EveryElementHasOneOwner) {
  std::set<std::pair<int, int>> owned;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      owned.insert({AccumulatorRow(lane, i), AccumulatorColumn(lane, i)});
      EXPECT_LT(AccumulatorRow(lane, i), kMmaM);
      EXPECT_LT(AccumulatorColumn(lane, i), kMmaN);
    }
  }
  EXPECT_EQ(static_cast<int>(owned.size()), kMmaM * kMmaN);
}

// All queries under all kv heads: each row and head once, each slot once, positions of the rows.
TEST(SoftmaxQueriesTest, EveryRowAndHeadIsOneQuery) {
  for (const int group_heads : {1, 7, 8}) {
    const SoftmaxSequence sequence{nullptr, 1020, 5, 9, 3};
    const int heads = 2 * group_heads;
    std::set<int64_t> rows;
    std::set<int64_t> slots;
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      const SoftmaxQueries queries{sequence, kv_head, heads, group_heads};
      EXPECT_EQ(queries.count(), 9 * group_heads);
      for (int query = 0; query < queries.count(); ++query) {
        const int64_t row = queries.Row(query);
        EXPECT_EQ(queries.Position(query), 1020 + row / heads - 5);
        EXPECT_EQ(row % heads / group_heads, kv_head);
        rows.insert(row);
        for (int segment = 0; segment < 2; ++segment) slots.insert(queries.Slot(query, segment));
      }
      EXPECT_EQ(queries.Position(queries.count()), -1);
      EXPECT_EQ(queries.LastPosition(0, 1000), 1028);
      EXPECT_EQ(queries.LastPosition(queries.count(), 8), -1);
    }
    EXPECT_EQ(*rows.begin(), 5 * heads);
    EXPECT_EQ(*rows.rbegin(), 14 * heads - 1);
    EXPECT_EQ(static_cast<int>(rows.size()), 9 * heads);
    EXPECT_EQ(*slots.begin(), 3 * heads);
    EXPECT_EQ(*slots.rbegin(), (3 + sequence.num_slots()) * heads - 1);
    EXPECT_EQ(static_cast<int64_t>(slots.size()), sequence.num_slots() * heads);
  }
}

TEST(SoftmaxScratchTest, PartsFillTheBytes) {
  std::vector<float> scratch(1);
  const SoftmaxPartials at = SoftmaxPartialsIn(scratch.data(), 10, 4);
  EXPECT_EQ(at.m, scratch.data());
  EXPECT_EQ(at.l - at.m, 40);
  EXPECT_EQ(at.o - at.l, 40);
  EXPECT_EQ(SoftmaxScratchBytes(10, 4, 32), (at.o - at.m + 10 * 4 * 32) * 4);
}

TEST(TakesSoftmaxFewTest, WantsFewQueriesAndSlots) {
  EXPECT_TRUE(TakesSoftmaxFew({nullptr, 2048, 0, 4, 0}, 8, 12));
  EXPECT_FALSE(TakesSoftmaxFew({nullptr, 2048, 0, 4, 0}, 8, 11));
  EXPECT_FALSE(TakesSoftmaxFew({nullptr, 2048, 0, 5, 0}, 8, 1000));
  EXPECT_TRUE(TakesSoftmaxFew({nullptr, 1023, 0, 1, 0}, 32, 1));
  EXPECT_FALSE(TakesSoftmaxFew({nullptr, 1024, 0, 1, 0}, 32, 1));
}

TEST(SoftmaxGridTest, HasABlockForEveryPartAndNoMore) {
  SoftmaxArgs args{};
  args.num_sequences = 3;
  args.heads = 16;
  args.kv_heads = 2;
  args.head_dim = 128;
  args.max_rows = 17;
  args.max_keys = 1025;
  const LaunchGrid prompt = SoftmaxPromptGrid<SoftmaxMany<128>>(args);
  EXPECT_EQ(prompt.blocks.x, 2);
  EXPECT_EQ(prompt.blocks.y, 2);
  EXPECT_EQ(prompt.blocks.z, 3);
  EXPECT_EQ(prompt.threads, 256);
  const LaunchGrid segments = SoftmaxSegmentsGrid<SoftmaxFew<128>>(args);
  EXPECT_EQ(segments.blocks.x, 2);
  EXPECT_EQ(segments.blocks.y, 34);
  EXPECT_EQ(segments.blocks.z, 3);
  EXPECT_EQ(segments.threads, 32);
  const LaunchGrid merge = SoftmaxMergeGrid(args);
  EXPECT_EQ(merge.blocks.x, 17 * 16);
  EXPECT_EQ(merge.blocks.y, 3);
}

}  // namespace
}  // namespace m1::cuda
