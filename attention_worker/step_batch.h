// The rows of one step, as the forward pass sees them: no requests, no policy.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/kernels/backend.h"

namespace m1 {

// The rows of one sequence and where its memory is.
struct BatchSequence {
  SequenceRows rows;
  int32_t state_slot = 0;
  std::span<const int32_t> block_table;
};

struct StepBatch {
  std::vector<int32_t> token_ids;         // [num_rows]
  std::vector<int64_t> positions;         // [num_rows]
  std::vector<BatchSequence> sequences;   // rows in order, none left out
  std::vector<int32_t> logit_rows;        // rows whose logits are wanted, ascending
  std::vector<float> logit_temperatures;  // [logit_rows.size()], for the log-sum-exp
  int32_t num_lanes = 1;                  // parts that go through the layers by turns

  int64_t num_rows() const { return static_cast<int64_t>(token_ids.size()); }
};

// The part of a step that goes through the layers in one lane.
struct LaneRows {
  int64_t row_begin = 0;  // in the step
  int64_t num_rows = 0;
  std::vector<BatchSequence> sequences;  // their rows count from row_begin
};

// Splits a step into `num_lanes` parts of about as many rows, in order, none of them empty; fewer
// when there are fewer rows. A sequence may be cut: a layer runs its first part first.
std::vector<LaneRows> SplitRows(const StepBatch& batch, int32_t num_lanes);

}  // namespace m1
