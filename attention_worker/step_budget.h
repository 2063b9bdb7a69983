// How many prompt tokens a step takes while others decode, so that their time between tokens keeps
// to a target. Learns from measured steps; knows no clock.
//
// A controller of one number: after a step that used the budget up, the budget moves by the ratio
// of target and measured time. Were a step's time base + cost * rows, it would converge to the rows
// that fit the target, whatever base and cost are, and it follows as they drift with the depth of
// the contexts. One odd measurement moves it by a bounded factor.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace m1 {

class StepBudget {
 public:
  // `target` of a step that holds decode rows; infinite: every step may be full. `max_rows` of any
  // step, at least 1.
  StepBudget(absl::Duration target, int32_t max_rows);

  // Prompt tokens that a step with `num_decode_rows` may take; never none while rows are left.
  int64_t PrefillRows(int64_t num_decode_rows) const;

  // A step took so long.
  void Record(int64_t num_decode_rows, int64_t num_prefill_rows, absl::Duration elapsed);

 private:
  const absl::Duration target_;
  const double max_rows_;
  const double min_rows_;  // prefill never stops: however slow decoding alone is
  double rows_;
};

}  // namespace m1
