#include "attention_worker/step_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace m1 {
namespace {

// Sequences of these many rows; the ith one's slot is i and it begins at position 100 * i.
StepBatch MakeBatch(const std::vector<int64_t>& counts) {
  StepBatch batch;
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto first = static_cast<int64_t>(100 * i);
    batch.sequences.push_back(
        {{.row_begin = batch.num_rows(), .num_rows = counts[i], .first_position = first},
         static_cast<int32_t>(i),
         {}});
    for (int64_t k = 0; k < counts[i]; ++k) {
      batch.token_ids.push_back(1);
      batch.positions.push_back(first + k);
    }
  }
  return batch;
}

TEST(SplitRowsTest, OneLaneIsTheBatch) {
  const StepBatch batch = MakeBatch({1, 5, 2});
  const auto parts = SplitRows(batch, 1);
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].num_rows, 8);
  EXPECT_EQ(parts[0].sequences.size(), 3U);
}

TEST(SplitRowsTest, ASequenceIsCutWhereTheHalfIs) {
  const auto parts = SplitRows(MakeBatch({1, 1, 8}), 2);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].num_rows, 5);
  EXPECT_EQ(parts[1].row_begin, 5);
  ASSERT_EQ(parts[0].sequences.size(), 3U);
  EXPECT_EQ(parts[0].sequences[2].rows.num_rows, 3);
  ASSERT_EQ(parts[1].sequences.size(), 1U);
  EXPECT_EQ(parts[1].sequences[0].rows.row_begin, 0);
  EXPECT_EQ(parts[1].sequences[0].rows.first_position, 203);
  EXPECT_EQ(parts[1].sequences[0].state_slot, 2);
}

TEST(SplitRowsTest, FewRowsMakeFewParts) {
  EXPECT_EQ(SplitRows(MakeBatch({1}), 2).size(), 1U);
  EXPECT_EQ(SplitRows(MakeBatch({1, 1}), 2).size(), 2U);
}

// Each row goes to one part, and each sequence's positions stay in order.
TEST(SplitRowsTest, EveryRowOnceAndInOrder) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<int64_t> counts(std::uniform_int_distribution<size_t>(1, 6)(random));
    for (int64_t& count : counts) count = std::uniform_int_distribution<>(1, 9)(random);
    const StepBatch batch = MakeBatch(counts);
    int64_t next_row = 0;
    std::map<int32_t, int64_t> next_position;
    for (const LaneRows& part : SplitRows(batch, std::uniform_int_distribution<>(1, 3)(random))) {
      ASSERT_EQ(part.row_begin, next_row);
      ASSERT_GT(part.num_rows, 0);
      int64_t row = 0;
      for (const BatchSequence& sequence : part.sequences) {
        ASSERT_EQ(sequence.rows.row_begin, row);
        int64_t& position =
            next_position.try_emplace(sequence.state_slot, 100 * sequence.state_slot).first->second;
        ASSERT_EQ(sequence.rows.first_position, position);
        position += sequence.rows.num_rows;
        row += sequence.rows.num_rows;
      }
      ASSERT_EQ(row, part.num_rows);
      next_row += part.num_rows;
    }
    ASSERT_EQ(next_row, batch.num_rows());
  }
}

}  // namespace
}  // namespace m1
