// Kernels that do nothing but what a GPU can do at most: the ceilings that benchmarks compare with.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

inline constexpr int kMeasureThreads = 256;

// A loop of mma.sync of bf16 or int8, or of fused multiply-adds of floats.
enum class PeakKind : int32_t { kBf16, kInt8, kFloat };

struct PeakArgs {
  float* out = nullptr;  // [blocks, kMeasureThreads]
  int32_t blocks = 0;
  int32_t steps = 0;  // kPeakSums operations each

  constexpr bool operator==(const PeakArgs&) const = default;
};

// Sums of a thread that do not wait for one another.
inline constexpr int kPeakSums = 8;

// Multiplications and additions of a launch.
constexpr double PeakOperations(PeakKind kind, const PeakArgs& args) {
  const double warps = static_cast<double>(args.blocks) * kMeasureThreads / kWarpLanes;
  const double each = kind == PeakKind::kBf16   ? 2.0 * 16 * 8 * 16
                      : kind == PeakKind::kInt8 ? 2.0 * 16 * 8 * 32
                                                : 2.0 * 4 * kWarpLanes;
  return warps * args.steps * kPeakSums * each;
}

struct ReadArgs {
  const Words4* x = nullptr;  // [count]
  uint32_t* out = nullptr;    // [blocks, kMeasureThreads]
  int64_t count = 0;
  int32_t blocks = 0;

  constexpr bool operator==(const ReadArgs&) const = default;
};

template <typename Args>
constexpr LaunchGrid MeasureGrid(const Args& args) {
  return {{args.blocks, 1, 1}, kMeasureThreads, 0};
}

template <PeakKind kind>
struct Peak {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const PeakArgs& args) {
    const auto word = static_cast<uint32_t>(0x3c803c80 + thread.lane());  // bf16 near 1/64, twice
    const Words4 a = {{word, word + 1, word + 2, word + 3}};
    float sums[kPeakSums][4] = {};
    int32_t integers[kPeakSums][4] = {};
    for (int step = 0; step < args.steps; ++step) {
      M1_UNROLL
      for (int i = 0; i < kPeakSums; ++i) {
        if constexpr (kind == PeakKind::kBf16) {
          thread.Mma(sums[i], a, word, word + 5);
        } else if constexpr (kind == PeakKind::kInt8) {
          thread.MmaInt8(integers[i], integers[i], a, word, word + 5);
        } else {
          const float x = Bf16ToFloat(static_cast<Bf16>(word));
          M1_UNROLL
          for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(sums[i][j], x, x);
        }
      }
    }
    float total = 0.0f;
    M1_UNROLL
    for (int i = 0; i < kPeakSums; ++i) {
      M1_UNROLL
      for (int j = 0; j < 4; ++j) total += sums[i][j] + static_cast<float>(integers[i][j]);
    }
    thread.Store(args.out + thread.block().x * kMeasureThreads + thread.index(), total);
  }
};

struct ReadAll {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const ReadArgs& args) {
    constexpr int kUnderWay = 4;
    const int64_t id = int64_t{thread.block().x} * kMeasureThreads + thread.index();
    const int64_t stride = int64_t{args.blocks} * kMeasureThreads;
    uint32_t all = 0;
    for (int64_t i = id; i < args.count; i += kUnderWay * stride) {
      M1_UNROLL
      for (int j = 0; j < kUnderWay; ++j) {
        if (i + j * stride >= args.count) continue;
        const Words4 words = thread.Load(args.x + i + j * stride);
        all ^= words.word[0] ^ words.word[1] ^ words.word[2] ^ words.word[3];
      }
    }
    thread.Store(args.out + id, all);
  }
};

}  // namespace m1::cuda
