#include "attention_worker/step_batch.h"

#include <algorithm>

namespace m1 {

std::vector<LaneRows> SplitRows(const StepBatch& batch, int32_t num_lanes) {
  const int64_t num_rows = batch.num_rows();
  const int64_t num_parts = std::clamp<int64_t>(num_lanes, 1, std::max<int64_t>(1, num_rows));
  std::vector<LaneRows> parts;
  for (int64_t i = 0; i < num_parts; ++i) {
    const int64_t begin = num_rows * i / num_parts;
    const int64_t end = num_rows * (i + 1) / num_parts;
    LaneRows& part =
        parts.emplace_back(LaneRows{.row_begin = begin, .num_rows = end - begin, .sequences = {}});
    for (const BatchSequence& sequence : batch.sequences) {
      const SequenceRows& rows = sequence.rows;
      const int64_t first = std::max(begin, rows.row_begin);
      const int64_t last = std::min(end, rows.row_begin + rows.num_rows);
      if (first >= last) continue;
      part.sequences.push_back({{.row_begin = first - begin,
                                 .num_rows = last - first,
                                 .first_position = rows.first_position + first - rows.row_begin},
                                sequence.state_slot,
                                sequence.block_table});
    }
  }
  return parts;
}

}  // namespace m1
