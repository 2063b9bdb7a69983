// Draws and scores tokens of one row at a time, on the passes of one instruction set. What it
// computes is said in common/kernels/sampling.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/kernels/cpu/kernel_table.h"
#include "common/kernels/sampling.h"

namespace m1 {

// Thread-compatible; keeps its buffers from row to row. Callers hold a ScopedFlushDenormals.
//
// Nothing is sorted but what stands at a border: the weight from which on tokens are kept is sought
// by halving, each time with one pass that counts and weighs what is above. As soon as few tokens
// can be kept, they are gathered and the row is not read again. For a small top_k they are gathered
// before anything is weighed.
class RowSampler {
 public:
  explicit RowSampler(const KernelTable* kernels) : kernels_(*kernels) {}

  // The edits change `logits` while it runs.
  int32_t Draw(std::span<float> logits, const TokenDraw& draw);
  TokenScore Score(std::span<const float> logits, const ScoreRequest& request);

 private:
  enum class Measure { kCount, kWeight };
  // Tokens that weigh `high` or more measure less than what is wanted, those of `low` or more do
  // not.
  struct Bracket {
    float low;
    Tally from_low;
    float high;
    Tally from_high;

    int64_t count() const { return from_low.count - from_high.count; }
  };

  static double Measured(Measure measure, const Tally& tally);

  // Fills maxima_; returns the largest.
  float Peak(std::span<const float> logits);
  // The lowest id with this logit, which is one of maxima_.
  int32_t FirstOf(std::span<const float> logits, float value) const;
  int32_t DrawWeighted(std::span<const float> logits, float peak, const TokenDraw& draw);
  // Fills weights_ and total_.
  void Weigh(std::span<const float> logits, float peak, float temperature);
  // The same of the first draw.top_k tokens alone, gathered.
  void WeighBest(std::span<const float> logits, float peak, const TokenDraw& draw);
  // Takes their weight from all but the first tokens that measure `wanted` together.
  void KeepFirst(Measure measure, double wanted, std::span<const float> logits);
  // Takes their weight from all that weigh less.
  void KeepHeavy(float floor);
  // False: all tokens together measure less.
  bool FindBracket(Measure measure, double wanted, Bracket* bracket) const;
  // Halves the bracket until it holds at most `limit` of `weights`, or one weight alone; `above` is
  // the tally of what is heavier than all of them.
  void Narrow(std::span<const float> weights, Tally above, Measure measure, double wanted,
              int64_t limit, Bracket* bracket) const;
  // From here on only the `count` tokens of at least this weight are left.
  void Gather(float floor, int64_t count);
  // Narrows the bracket as far as that pays; the places of its tokens, first in order first.
  std::vector<int32_t> Ranked(Measure measure, double wanted, std::span<const float> logits,
                              Bracket* bracket) const;
  int32_t Invert(double uniform) const;
  int32_t IdAt(size_t place) const {
    return is_gathered_ ? ids_[place] : static_cast<int32_t>(place);
  }
  // The `count` largest logits, ties to the lower id, largest first. Spends maxima_.
  std::span<const int32_t> Best(std::span<const float> logits, size_t count);

  const KernelTable& kernels_;
  std::vector<float> maxima_;  // of the blocks of a row
  std::vector<float> saved_;   // logits before their edits
  std::vector<int32_t> best_;

  // The draw under way: tokens in order of id, each at its place.
  std::vector<float> row_weights_;
  std::span<float> weights_;
  std::vector<int32_t> ids_;  // of weights_, when gathered; else ids are places
  bool is_gathered_ = false;
  float unit_ = 0.0f;
  double total_ = 0.0;
};

}  // namespace m1
