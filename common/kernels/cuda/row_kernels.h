// The operations that reduce a row: RMS norm and the gate.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/row_args.h"

namespace m1::cuda {

// The sum of a value of each lane, in all lanes: a tree, l + (l ^ 16), then ^ 8, 4, 2, 1.
template <typename Thread>
M1_DEVICE float AddLanes(Thread& thread, float value) {
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
    value = value + thread.ShuffleXor(value, mask);
  }
  return value;
}

// out = weight * (x * (1 / sqrt(mean(x^2) + eps))). The sum of squares in an order of its own:
// thread t takes the elements t, t + 256, ... by fused multiply-adds; the lanes of a warp are added
// by a tree, the warps one after another.
template <typename Weight, typename Thread>
M1_DEVICE void RmsNormKernel(Thread& thread, const RmsNormArgs<Weight>& args) {
  const int64_t row = static_cast<int64_t>(thread.block().x) * args.n;
  float sum = 0.0f;
  for (int i = thread.index(); i < args.n; i += kNormThreads) {
    const float x = thread.Load(args.x + row + i);
    sum = fmaf(x, x, sum);
  }
  sum = AddLanes(thread, sum);
  constexpr int kBytes = static_cast<int>(sizeof(float));
  if (thread.lane() == 0) thread.StoreShared(thread.warp() * kBytes, sum);
  thread.Barrier();
  float total = 0.0f;
  for (int warp = 0; warp < kNormWarps; ++warp) {
    total = total + thread.template LoadShared<float>(warp * kBytes);
  }
  const float scale = 1.0f / sqrtf(total / static_cast<float>(args.n) + args.eps);
  for (int i = thread.index(); i < args.n; i += kNormThreads) {
    const float normed = thread.Load(args.x + row + i) * scale;
    thread.Store(args.out + row + i, Widen(thread.Load(args.weight + i)) * normed);
  }
}

// One row's softmax over the experts and the k heaviest, with the bits of backend.h: the sum takes
// the experts in ascending order.
template <typename Thread>
class GateRow {
 public:
  M1_DEVICE GateRow(Thread& thread, const TopKGateArgs& args, int row)
      : thread_(thread), args_(args), row_(row) {}

  M1_DEVICE void Run() {
    Softmax();
    float total = 0.0f;
    float chosen = 0.0f;  // of the expert whose rank is this lane
    for (int rank = 0; rank < args_.k; ++rank) {
      const Candidate best = TakeBest();
      total = total + best.p;
      if (thread_.lane() == rank) {
        chosen = best.p;
        thread_.Store(args_.ids + row_ * args_.k + rank, best.expert);
      }
    }
    if (thread_.lane() < args_.k) {
      thread_.Store(args_.weights + row_ * args_.k + thread_.lane(), chosen / total);
    }
  }

 private:
  static constexpr int kSlots = kMaxGateExperts / kWarpLanes;
  static constexpr int kNobody = kMaxGateExperts;

  struct Candidate {
    float p;
    int expert;
  };

  M1_DEVICE int Expert(int slot) const { return slot * kWarpLanes + thread_.lane(); }

  M1_DEVICE void Softmax() {
    float max = -Infinity();
    for (int slot = 0; slot < kSlots; ++slot) {
      p_[slot] = -Infinity();
      if (Expert(slot) >= args_.experts) continue;
      p_[slot] = thread_.Load(args_.logits + row_ * args_.experts + Expert(slot));
      max = p_[slot] > max ? p_[slot] : max;
    }
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      const float other = thread_.ShuffleXor(max, mask);
      max = other > max ? other : max;
    }
    float sum = 0.0f;
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot * kWarpLanes >= args_.experts) break;
      p_[slot] = Exp(p_[slot] - max);
      const int count = args_.experts - slot * kWarpLanes;
      for (int lane = 0; lane < (count < kWarpLanes ? count : kWarpLanes); ++lane) {
        sum = sum + thread_.Shuffle(p_[slot], lane);
      }
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      p_[slot] = p_[slot] / sum;
      taken_[slot] = Expert(slot) >= args_.experts;
    }
  }

  // Larger first, then the lower id. NaN is not larger than anything, so that of NaNs the lowest id
  // is taken: all weights of a row are NaN or none.
  M1_DEVICE static bool Before(const Candidate& a, const Candidate& b) {
    if (a.expert == kNobody || b.expert == kNobody) return a.expert < b.expert;
    if (a.p > b.p) return true;
    return !(b.p > a.p) && a.expert < b.expert;
  }

  M1_DEVICE Candidate TakeBest() {
    Candidate best{0.0f, kNobody};
    for (int slot = 0; slot < kSlots; ++slot) {
      const Candidate own{p_[slot], Expert(slot)};
      if (!taken_[slot] && Before(own, best)) best = own;
    }
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      const Candidate other{thread_.ShuffleXor(best.p, mask),
                            thread_.ShuffleXor(best.expert, mask)};
      if (Before(other, best)) best = other;
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      if (Expert(slot) == best.expert) taken_[slot] = true;
    }
    return best;
  }

  Thread& thread_;
  const TopKGateArgs& args_;
  const int64_t row_;
  float p_[kSlots];
  bool taken_[kSlots];
};

template <typename Thread>
M1_DEVICE void TopKGateKernel(Thread& thread, const TopKGateArgs& args) {
  const int row = thread.block().x * kGateWarps + thread.warp();
  if (row < args.rows) GateRow<Thread>(thread, args, row).Run();
}

}  // namespace m1::cuda
