// What the suites of softmax attention share: a step over a paged pool, the two ways of the kernels
// through it, and a plain loop that has their bits.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/kernels/backend.h"
#include "common/kernels/cuda/softmax_kernel.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"

namespace m1::cuda {

struct SoftmaxHeads {
  int heads;
  int kv_heads;
  int head_dim;
};

// Sequences in one call over one pool, with blocks in random order. Row 0 of the step is nobody's;
// what no sequence has written of the pool, and q of that row, is NaN.
class SoftmaxCase {
 public:
  // Positions and numbers of rows of the sequences; the rest is made up.
  SoftmaxCase(const SoftmaxHeads& heads, std::vector<SequenceRows> sequences);

  const SoftmaxHeads& heads() const { return heads_; }
  Tensor& q() { return q_; }
  Bf16* Key(size_t sequence, int64_t position, int64_t kv_head) {
    return At(pool_k_, sequence, position, kv_head);
  }
  Bf16* Value(size_t sequence, int64_t position, int64_t kv_head) {
    return At(pool_v_, sequence, position, kv_head);
  }

  // Every element of the result that is a sequence's is written once, the others not at all.
  // `partials`: what the segments gave, as SoftmaxPartialsIn lays it out; NaN where a row does not
  // see a segment.
  Tensor RunFew(std::vector<float>* partials = nullptr);
  Tensor RunMany();
  Tensor RunReference();
  // Plain loops with the products of 16 elements of the simulator.
  Tensor RunModel(std::vector<float>* partials = nullptr);
  // By calls of `step` rows of the only sequence, each before the keys of the next are there.
  Tensor RunFewInSteps(int step) {
    return RunInSteps(step, [this] { return RunFew(); });
  }
  Tensor RunManyInSteps(int step) {
    return RunInSteps(step, [this] { return RunMany(); });
  }

 private:
  Bf16* At(Tensor& pool, size_t sequence, int64_t position, int64_t kv_head);
  std::vector<SoftmaxSequence> Sequences() const;
  SoftmaxArgs Arguments(const std::vector<SoftmaxSequence>& sequences, Tensor& out);
  SimulatedMemory Memory(const std::vector<SoftmaxSequence>& sequences, Tensor& out);
  void ExpectRowsWritten(const SimulatedMemory& memory, const Tensor& out) const;
  // Elements of a row of the step.
  size_t Width() const {
    return static_cast<size_t>(heads_.heads) * static_cast<size_t>(heads_.head_dim);
  }
  int64_t CountSlots() const;
  std::vector<float> NoPartials() const;
  SoftmaxPartials PartialsIn(std::vector<float>& scratch) const;
  struct Results {
    SoftmaxPartials partials;
    Bf16* out;
  };
  void RunModelQuery(const SoftmaxQueries& queries, size_t sequence, int query,
                     const Results& results);
  Tensor RunInSteps(int step, const std::function<Tensor()>& run);

  SoftmaxHeads heads_;
  std::vector<SequenceRows> rows_;
  std::vector<std::vector<int32_t>> tables_;
  Tensor q_, pool_k_, pool_v_;
};

}  // namespace m1::cuda
