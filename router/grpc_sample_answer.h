// One sample of a Generate call: its tokens to deltas, its counts and times to a Finish.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"

#include "m1/v1/inference.pb.h"
#include "router/answer.h"
#include "router/request.h"
#include "router/token_pieces.h"

namespace m1 {

// Not thread-safe. Order of calls: as of a SequenceSink.
class SampleAnswer {
 public:
  // The request is owned by its call, its sequences and its answers; `pieces` must outlive them.
  SampleAnswer(std::shared_ptr<const GenerationRequest> request, int index,
               const TokenPieces* pieces, absl::Time arrival_time);

  void Start(absl::Time now) { started_ = now; }
  std::vector<AnswerDelta> Push(std::vector<AnswerToken> tokens, absl::Time now);
  // What was held back.
  std::vector<AnswerDelta> End();
  v1::Finish MakeFinish(AnswerEnd end, int32_t stop_token_id, absl::Time now) const;

  uint64_t seed() const { return seed_; }
  // Absent until the first token.
  std::optional<absl::Time> last_token_time() const { return last_token_; }
  bool is_complete() const { return builder_.matched_stop_string().has_value(); }

 private:
  std::shared_ptr<const GenerationRequest> request_;
  uint64_t seed_;
  absl::Time arrival_time_;
  AnswerBuilder builder_;
  std::optional<absl::Time> started_;
  std::optional<absl::Time> first_token_;
  std::optional<absl::Time> last_token_;
};

}  // namespace m1
