// What the kernels over rows of logits share: their order, passes of a whole block over a row,
// reductions of a whole block.
#pragma once

#include <bit>
#include <cstdint>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"

namespace m1::cuda {

// Larger for larger logits; equal where they compare equal with subnormals flushed.
M1_DEVICE uint32_t OrderOf(float logit) {
  constexpr uint32_t kSign = 0x80000000U;
  uint32_t bits = std::bit_cast<uint32_t>(logit);
  if ((bits & ~kSign) < 0x00800000U) bits = 0;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

M1_DEVICE float LogitOfOrder(uint32_t order) {
  constexpr uint32_t kSign = 0x80000000U;
  return std::bit_cast<float>((order & kSign) != 0 ? order ^ kSign : ~order);
}

// Dividing by 1 changes nothing that is not flushed later.
M1_DEVICE float Quotient(float logit, float temperature) {
  return temperature == 1.0f ? logit : logit / temperature;
}

// The tokens with this key or a larger one, and how many they are.
struct Border {
  uint64_t key;
  double count;
};

// What tokens of a key or a larger one count and weigh. Both are exact.
struct KeyTally {
  double count = 0.0;
  double weight = 0.0;
};

enum class Measure { kCount, kWeight };

struct AddValues {
  M1_DEVICE double operator()(double a, double b) const { return a + b; }
};
struct LargerKey {
  M1_DEVICE uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// The value of another lane, in two words.
template <typename T, typename Thread>
M1_DEVICE T ShuffleWide(Thread& thread, T value, int mask) {
  static_assert(sizeof(T) == kWideBytes);
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint32_t low = thread.ShuffleXor(static_cast<uint32_t>(bits), mask);
  const uint32_t high = thread.ShuffleXor(static_cast<uint32_t>(bits >> 32), mask);
  return std::bit_cast<T>((static_cast<uint64_t>(high) << 32) | low);
}

// A value of each lane combined, in all lanes.
template <typename T, typename Combine, typename Thread>
M1_DEVICE T ReduceWarp(Thread& thread, T value, Combine combine) {
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
    value = combine(value, ShuffleWide(thread, value, mask));
  }
  return value;
}

// kCount values of each thread combined, in all threads: warp i reduces the i-th. For combinations
// whose order does not matter. Partials stand at the front of shared memory; a barrier stands
// behind whatever else used it.
template <typename T, int kCount, typename Combine, typename Thread>
M1_DEVICE void ReduceBlock(Thread& thread, int results_at, T (&values)[kCount], Combine combine) {
  M1_UNROLL
  for (int i = 0; i < kCount; ++i) {
    thread.StoreShared((i * kVocabThreads + thread.index()) * kWideBytes, values[i]);
  }
  thread.Barrier();
  if (thread.warp() < kCount) {
    const int from = (thread.warp() * kVocabThreads + thread.lane()) * kWideBytes;
    T total = thread.template LoadShared<T>(from);
    M1_UNROLL
    for (int warp = 1; warp < kVocabWarps; ++warp) {
      const int at = from + warp * kWarpLanes * kWideBytes;
      total = combine(total, thread.template LoadShared<T>(at));
    }
    total = ReduceWarp(thread, total, combine);
    if (thread.lane() == 0) {
      thread.StoreShared(results_at + thread.warp() * kWideBytes, total);
    }
  }
  thread.Barrier();
  M1_UNROLL
  for (int i = 0; i < kCount; ++i) {
    values[i] = thread.template LoadShared<T>(results_at + i * kWideBytes);
  }
}

// The first of `count` slots that are this thread's alone; `total` becomes the number of all. Lane
// l of warp 0 gives out those of the threads l, l + 32, ... Uses the memory of partials.
template <typename Thread>
M1_DEVICE int FirstSlot(Thread& thread, int count, int& total) {
  constexpr int kIntBytes = static_cast<int>(sizeof(int));
  constexpr int kTotalAt = kVocabThreads * kIntBytes;
  thread.StoreShared(thread.index() * kIntBytes, count);
  thread.Barrier();
  if (thread.warp() == 0) {
    int counts[kVocabWarps];
    int own = 0;
    M1_UNROLL
    for (int i = 0; i < kVocabWarps; ++i) {
      const int at = (i * kWarpLanes + thread.lane()) * kIntBytes;
      counts[i] = thread.template LoadShared<int>(at);
      own += counts[i];
    }
    int end = own;  // of the slots of the lanes up to this one
    for (int step = 1; step < kWarpLanes; step *= 2) {
      const int other = thread.Shuffle(end, (thread.lane() + kWarpLanes - step) % kWarpLanes);
      if (thread.lane() >= step) end += other;
    }
    int slot = end - own;
    M1_UNROLL
    for (int i = 0; i < kVocabWarps; ++i) {
      thread.StoreShared((i * kWarpLanes + thread.lane()) * kIntBytes, slot);
      slot += counts[i];
    }
    if (thread.lane() == kWarpLanes - 1) thread.StoreShared(kTotalAt, end);
  }
  thread.Barrier();
  total = thread.template LoadShared<int>(kTotalAt);
  return thread.template LoadShared<int>(thread.index() * kIntBytes);
}

// The ids first, first + stride, ... below `end`.
struct TokenRange {
  int first;
  int end;
  int stride;
};

// visit(id, x[id], y[id]) for ids of the range; zeros for arrays that are null. Loads of several
// ids are under way together.
template <typename Thread, typename Visit>
M1_DEVICE void ForTokens(Thread& thread, const TokenRange& range, const float* x, const float* y,
                         Visit visit) {
  for (int begin = range.first; begin < range.end; begin += range.stride * kVocabBatch) {
    float xs[kVocabBatch];
    float ys[kVocabBatch];
    M1_UNROLL
    for (int i = 0; i < kVocabBatch; ++i) {
      const int id = begin + i * range.stride;
      xs[i] = x != nullptr && id < range.end ? thread.Load(x + id) : 0.0f;
      ys[i] = y != nullptr && id < range.end ? thread.Load(y + id) : 0.0f;
    }
    M1_UNROLL
    for (int i = 0; i < kVocabBatch; ++i) {
      const int id = begin + i * range.stride;
      if (id < range.end) visit(id, xs[i], ys[i]);
    }
  }
}

}  // namespace m1::cuda
