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

  int64_t num_rows() const { return static_cast<int64_t>(token_ids.size()); }
};

}  // namespace m1
