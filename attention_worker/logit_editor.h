// What changes a sequence's logits before a token is drawn: penalties, logit_bias, and until
// min_new_tokens were generated the mask over the tokens that would end it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

#include "attention_worker/sequence.h"
#include "common/kernels/sampling.h"

namespace m1 {

// Counts the tokens of one sequence as they come; a function of the sequence alone, however often
// it was started again. Holds some 50 bytes for each different token that is edited.
class LogitEditor {
 public:
  explicit LogitEditor(const SequenceStart& start);

  // The edits for drawing the token that follows `tokens`, prompt and generated, of which the last
  // call has seen a beginning. Valid until the next call.
  //   penalty: the repetition penalty for what is among `tokens`, else 1;
  //   offset: bias - (frequency_penalty * count + presence_penalty if count > 0), with the token's
  //   count among the generated ones; -infinity while it is masked.
  std::span<const LogitEdit> Next(std::span<const int32_t> tokens);

 private:
  struct EditedToken {
    float bias = 0.0F;
    int32_t count = 0;
    bool is_repetition = false;
    bool is_stop = false;
  };

  size_t PlaceOf(int32_t id);
  void Count(int32_t id, bool is_generated);
  void Refresh(size_t place);

  const float repetition_penalty_;
  const float presence_penalty_;
  const float frequency_penalty_;
  const int64_t first_generated_index_;
  const int64_t min_new_tokens_;
  int64_t num_counted_ = 0;
  bool masks_stops_ = false;

  absl::flat_hash_map<int32_t, uint32_t> places_;
  std::vector<EditedToken> tokens_;  // by place
  std::vector<LogitEdit> edits_;     // by place
};

}  // namespace m1
