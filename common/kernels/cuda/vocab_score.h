// ScoreTokens, a block for each request.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"
#include "common/kernels/cuda/vocab_block.h"
#include "common/kernels/cuda/vocab_border.h"

namespace m1::cuda {

template <typename Thread>
class ScoreBody {
 public:
  M1_DEVICE ScoreBody(Thread& thread, const ScoreArgs& args)
      : thread_(thread),
        args_(args),
        request_(thread.Load(args.requests + thread.block().x)),
        logits_(args.logits + static_cast<int64_t>(request_.row) * args.vocab),
        row_(thread, logits_, nullptr, args.vocab) {}

  M1_DEVICE void Run() {
    const uint64_t first = row_.FindPeak();
    const float logit = thread_.Load(logits_ + request_.id);
    const double rank = row_.TallyFrom(row_.KeyOf(request_.id, logit)).count;
    if (thread_.index() == 0) {
      thread_.Store(args_.logprobs + thread_.block().x, LogprobOf(logit));
      thread_.Store(args_.ranks + thread_.block().x, static_cast<int32_t>(rank));
    }
    const int count =
        request_.candidate_count < args_.vocab ? request_.candidate_count : args_.vocab;
    if (count > 0) WriteCandidates(count, first + 1);
  }

 private:
  M1_DEVICE float LogprobOf(float logit) const {
    return Quotient(logit, request_.temperature) - request_.lse;
  }

  // `end`: above all keys. A candidate's place is the number of those before it.
  M1_DEVICE void WriteCandidates(int count, uint64_t end) {
    const Border all{0, static_cast<double>(args_.vocab)};
    const Border border = row_.template FindBorder<Measure::kCount>(static_cast<double>(count), all,
                                                                    6.0f * request_.temperature);
    row_.Gather(border.key, end);
    const int64_t out = static_cast<int64_t>(thread_.block().x) * args_.max_candidates;
    for (int slot = thread_.index(); slot < count; slot += kVocabThreads) {
      const uint64_t key = row_.GatheredKey(slot);
      int place = 0;
      for (int other = 0; other < count; ++other) {
        if (row_.GatheredKey(other) > key) ++place;
      }
      const int id = row_.IdOf(key);
      thread_.Store(args_.candidate_ids + out + place, id);
      thread_.Store(args_.candidate_logprobs + out + place, LogprobOf(thread_.Load(logits_ + id)));
    }
  }

  Thread& thread_;
  const ScoreArgs& args_;
  const ScoreParams request_;
  const float* const logits_;
  VocabRow<Thread> row_;
};

}  // namespace m1::cuda
