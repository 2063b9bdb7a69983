// A row as integers with a scale, in the quantised form of backend.h and with its bits: a block for
// each row.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/quant_args.h"

namespace m1::cuda {

inline constexpr int kQuantUnit = 8;  // elements that a thread takes at a time

// Where the even and the odd four of unit `unit` go, in words of four integers; in kPlain order the
// first and the last four.
struct UnitWords {
  int first;
  int second;
};
constexpr UnitWords WordsOfUnit(QuantOrder order, int unit) {
  if (order == QuantOrder::kPlain) return {2 * unit, 2 * unit + 1};
  const int first = unit / 4 * 8 + unit % 4;
  return {first, first + 4};
}
constexpr int ElementOfWord(QuantOrder order, bool second, int i) {
  if (order == QuantOrder::kPlain) return (second ? 4 : 0) + i;
  return 2 * i + (second ? 1 : 0);
}

template <typename Act, typename Thread>
class RowQuantizer {
 public:
  M1_DEVICE RowQuantizer(Thread& thread, const QuantizeRowsArgs<Act>& args)
      : thread_(thread), args_(args), row_(thread.block().x) {}

  M1_DEVICE void Run() {
    const uint32_t largest = LargestOfBlock(LargestOfThread());
    const bool zero = largest < kSmallest;
    const bool none = zero || largest >= kInfinityBits;
    // Of a row without integers every product with 0 would do, but not those of infinity and NaN.
    const float factor = none ? 0.0f : 127.0f / std::bit_cast<float>(largest);
    for (int unit = thread_.index(); unit < Units(); unit += kQuantizeThreads) {
      StoreUnit(unit, none, factor);
    }
    if (thread_.index() != 0) return;
    const float scale = none ? QuietNaN() : std::bit_cast<float>(largest) / 127.0f;
    thread_.Store(args_.scales + row_, zero ? 0.0f : scale);
  }

 private:
  static constexpr uint32_t kMagnitude = 0x7fffffffU;
  static constexpr uint32_t kSmallest = 0x0d800000U;  // 2^-100
  // Added to a small number it leaves the nearest integer, ties to even, in the lower bits.
  static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

  // Eight elements as a thread reads them.
  struct alignas(16) Chunk {
    Act element[16 / sizeof(Act)];
  };
  static constexpr int kChunkSize = 16 / static_cast<int>(sizeof(Act));

  M1_DEVICE int Units() const { return args_.k / kQuantUnit; }

  M1_DEVICE void LoadUnit(int unit, float (&x)[kQuantUnit]) {
    const Act* from = args_.x + row_ * args_.k + unit * kQuantUnit;
    M1_UNROLL
    for (int begin = 0; begin < kQuantUnit; begin += kChunkSize) {
      const auto chunk = thread_.Load(reinterpret_cast<const Chunk*>(from + begin));
      M1_UNROLL
      for (int i = 0; i < kChunkSize; ++i) x[begin + i] = Widen(chunk.element[i]);
    }
  }

  // Magnitudes by their bits, which order numbers, then infinity, then NaN.
  M1_DEVICE uint32_t LargestOfThread() {
    uint32_t largest = 0;
    for (int unit = thread_.index(); unit < Units(); unit += kQuantizeThreads) {
      float x[kQuantUnit];
      LoadUnit(unit, x);
      M1_UNROLL
      for (int i = 0; i < kQuantUnit; ++i) {
        largest = Larger(largest, std::bit_cast<uint32_t>(x[i]) & kMagnitude);
      }
    }
    return largest;
  }

  M1_DEVICE static uint32_t Larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

  M1_DEVICE uint32_t LargestOfBlock(uint32_t largest) {
    constexpr int kBytes = static_cast<int>(sizeof(uint32_t));
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      largest = Larger(largest, thread_.ShuffleXor(largest, mask));
    }
    if (thread_.lane() == 0) thread_.StoreShared(thread_.warp() * kBytes, largest);
    thread_.Barrier();
    for (int warp = 0; warp < kQuantizeWarps; ++warp) {
      largest = Larger(largest, thread_.template LoadShared<uint32_t>(warp * kBytes));
    }
    return largest;
  }

  M1_DEVICE void StoreUnit(int unit, bool none, float factor) {
    float x[kQuantUnit];
    LoadUnit(unit, x);
    uint32_t bytes[kQuantUnit];
    M1_UNROLL
    for (int i = 0; i < kQuantUnit; ++i) {
      // The integer in the lower bits of the float; above them kRounder's, whose own are 0.
      bytes[i] = none ? 0 : std::bit_cast<uint32_t>(x[i] * factor + kRounder) & 0xffU;
    }
    auto* const to = reinterpret_cast<uint32_t*>(args_.values + row_ * args_.k);
    const UnitWords words = WordsOfUnit(args_.order, unit);
    thread_.Store(to + words.first, Word(bytes, false));
    thread_.Store(to + words.second, Word(bytes, true));
  }

  M1_DEVICE uint32_t Word(const uint32_t (&bytes)[kQuantUnit], bool second) {
    const bool plain = args_.order == QuantOrder::kPlain;
    return plain ? WordInOrder<QuantOrder::kPlain>(bytes, second)
                 : WordInOrder<QuantOrder::kEvenOdd>(bytes, second);
  }

  template <QuantOrder order>
  M1_DEVICE static uint32_t WordInOrder(const uint32_t (&bytes)[kQuantUnit], bool second) {
    uint32_t word = 0;
    M1_UNROLL
    for (int i = 0; i < 4; ++i) word |= bytes[ElementOfWord(order, second, i)] << (8 * i);
    return word;
  }

  Thread& thread_;
  const QuantizeRowsArgs<Act>& args_;
  const int64_t row_;
};

// Grid: rows.
template <typename Act, typename Thread>
M1_DEVICE void QuantizeRowsKernel(Thread& thread, const QuantizeRowsArgs<Act>& args) {
  RowQuantizer<Act, Thread>(thread, args).Run();
}

}  // namespace m1::cuda
