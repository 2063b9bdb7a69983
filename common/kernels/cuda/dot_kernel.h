// Products of fp32 rows with fp32 weights, for the few small matrices that are kept so (gates): the
// dot form of backend.h with its bits. Half a warp has one element of the output, a thread one of
// the 16 lanes.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_args.h"

namespace m1::cuda {

struct DotArgs {
  const float* x;  // [rows, k]
  const float* w;  // [n, k]
  float* out;      // [rows, n]
  int32_t rows;
  int32_t n;
  int32_t k;
  ProductEpilogue epilogue;

  constexpr bool operator==(const DotArgs&) const = default;
};

inline constexpr int kDotFormLanes = 16;
inline constexpr int kDotThreads = 128;
inline constexpr int kDotOutputs = kDotThreads / kDotFormLanes;  // of a block

// Blocks: (rows, outputs of a row).
constexpr LaunchGrid GridOf(const DotArgs& args) {
  return {{args.rows, CeilDiv(args.n, kDotOutputs), 1}, kDotThreads, 0};
}

struct Dot {
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const DotArgs& args) {
    const int output = thread.block().y * kDotOutputs + thread.index() / kDotFormLanes;
    const bool exists = output < args.n;
    const float* x = args.x + static_cast<int64_t>(thread.block().x) * args.k;
    const float* w = args.w + static_cast<int64_t>(exists ? output : 0) * args.k;
    float sum = 0.0f;
    const int padded = CeilDiv(args.k, 2 * kDotFormLanes) * 2 * kDotFormLanes;
    for (int i = thread.index() % kDotFormLanes; i < padded; i += kDotFormLanes) {
      const bool inside = i < args.k;
      sum = fmaf(inside ? thread.Load(x + i) : 0.0f, inside ? thread.Load(w + i) : 0.0f, sum);
    }
    for (int mask = kDotFormLanes / 2; mask > 0; mask /= 2)
      sum = sum + thread.ShuffleXor(sum, mask);
    if (!exists || thread.index() % kDotFormLanes != 0) return;
    thread.Store(args.out + static_cast<int64_t>(thread.block().x) * args.n + output,
                 args.epilogue == ProductEpilogue::kSilu ? Silu(sum) : sum);
  }
};

}  // namespace m1::cuda
