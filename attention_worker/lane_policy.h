// How many batches a step is split into, so that the experts of one compute while the attention of
// the other does. Two read the weights twice, so they pay only where experts are far or slow, and
// not with every number of rows: it is measured. Knows no clock; changes no bit.
#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace m1 {

class LanePolicy {
 public:
  enum class Mode {
    kOne,
    kTwo,       // of every step with at least two rows
    kMeasured,  // what was faster with about as many rows
  };
  explicit LanePolicy(Mode mode) : mode_(mode) {}

  // For a step of so many rows: 1 or 2.
  int32_t NumLanes(int64_t num_rows);
  // Such a step took so long.
  void Record(int64_t num_rows, int32_t num_lanes, absl::Duration elapsed);

 private:
  struct Estimate {
    double seconds_per_row = 0;
    int64_t num_steps = 0;
  };
  // Of steps with 2^i to 2^(i + 1) - 1 rows.
  struct Size {
    std::array<Estimate, 2> by_lanes;  // of one lane, of two
    int64_t num_choices = 0;
    int32_t chosen = 1;
  };
  Size& SizeOf(int64_t num_rows);

  const Mode mode_;
  std::array<Size, 24> sizes_;
};

}  // namespace m1
