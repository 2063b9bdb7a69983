// The operations that compute each element of their output alone, with the bits of backend.h: a
// thread computes one element.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/row_args.h"

namespace m1::cuda {

template <typename Thread>
M1_DEVICE int64_t ElementIndex(Thread& thread) {
  return static_cast<int64_t>(thread.block().x) * kElementThreads + thread.index();
}

// A thread copies one word.
template <typename Word, typename Thread>
M1_DEVICE void CopyRowsKernel(Thread& thread, const CopyRowsArgs& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= args.rows * args.row_words) return;
  const int64_t row = i / args.row_words;
  const int64_t word = i % args.row_words;
  const int64_t from = thread.Load(args.x_rows + row) * args.row_words + word;
  const int64_t to = thread.Load(args.out_rows + row) * args.row_words + word;
  thread.Store(static_cast<Word*>(args.out) + to,
               thread.Load(static_cast<const Word*>(args.x) + from));
}

template <typename Weight, typename Thread>
M1_DEVICE void EmbedKernel(Thread& thread, const EmbedArgs<Weight>& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= static_cast<int64_t>(args.rows) * args.hidden) return;
  const int64_t id = thread.Load(args.ids + i / args.hidden);
  thread.Store(args.out + i, Widen(thread.Load(args.table + id * args.hidden + i % args.hidden)));
}

template <typename Act, typename Thread>
M1_DEVICE void RoundKernel(Thread& thread, const RoundArgs<Act>& args) {
  const int64_t i = ElementIndex(thread);
  if (i < args.count) thread.Store(args.out + i, Narrow<Act>(thread.Load(args.x + i)));
}

template <typename Thread>
M1_DEVICE void SplitKernel(Thread& thread, const SplitArgs& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= args.count) return;
  float rest = thread.Load(args.x + i);
  for (int part = 0; part < 3; ++part) {
    const Bf16 term = FloatToBf16(rest);
    thread.Store(args.parts + part * args.count + i, term);
    rest = rest - Bf16ToFloat(term);
  }
}

template <typename Thread>
M1_DEVICE void ScaledAddKernel(Thread& thread, const ScaledAddArgs& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= args.count) return;
  const float scaled = args.alpha * thread.Load(args.x + i);
  thread.Store(args.out + i, fmaf(args.beta, thread.Load(args.y + i), scaled));
}

template <typename Act, typename Thread>
M1_DEVICE void SigmoidMulKernel(Thread& thread, const SigmoidMulArgs<Act>& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= args.count) return;
  const float gate = Sigmoid(thread.Load(args.gate + i));
  thread.Store(args.out + i, Narrow<Act>(gate * thread.Load(args.x + i)));
}

template <typename Act, typename Thread>
M1_DEVICE void CombineKernel(Thread& thread, const CombineArgs<Act>& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= static_cast<int64_t>(args.rows) * args.hidden) return;
  const int64_t row = i / args.hidden;
  const float* weights = args.weights + row * args.k;
  const Act* y = args.y + row * args.k * args.hidden + i % args.hidden;
  float sum = thread.Load(weights) * Widen(thread.Load(y));
  for (int rank = 1; rank < args.k; ++rank) {
    const Act term = thread.Load(y + static_cast<int64_t>(rank) * args.hidden);
    sum = fmaf(thread.Load(weights + rank), Widen(term), sum);
  }
  thread.Store(args.out + i, sum);
}

template <typename Thread>
M1_DEVICE void SharedMixKernel(Thread& thread, const SharedMixArgs& args) {
  const int64_t i = ElementIndex(thread);
  if (i >= static_cast<int64_t>(args.rows) * args.hidden) return;
  const float c = Sigmoid(thread.Load(args.coefficient_logit + i / args.hidden));
  const float moe = thread.Load(args.moe + i) * (1.0f - c);
  thread.Store(args.out + i, fmaf(thread.Load(args.shared + i), c, moe));
}

template <typename Act, typename Thread>
M1_DEVICE void RotaryKernel(Thread& thread, const RotaryArgs<Act>& args) {
  const int64_t at = ElementIndex(thread);
  const int64_t row_size = static_cast<int64_t>(args.heads) * args.head_dim;
  if (at >= args.rows * row_size) return;
  const float own = thread.Load(args.x + at);
  const auto dim = static_cast<int>(at % args.head_dim);
  if (dim >= 2 * args.half) {
    thread.Store(args.out + at, Narrow<Act>(own));
    return;
  }
  const int64_t angle = at / row_size * args.half + dim % args.half;
  const float c = thread.Load(args.cos + angle);
  const float s = thread.Load(args.sin + angle);
  const bool first = dim < args.half;
  const float other = thread.Load(args.x + at + (first ? args.half : -args.half));
  thread.Store(args.out + at, Narrow<Act>(fmaf(first ? -other : other, s, own * c)));
}

template <typename Act, typename Thread>
M1_DEVICE void AppendKvKernel(Thread& thread, const AppendKvArgs<Act>& args) {
  const int64_t from = ElementIndex(thread);
  const int64_t row_size = static_cast<int64_t>(args.kv_heads) * args.head_dim;
  if (from >= args.rows * row_size) return;
  const KvPlace place = thread.Load(args.places + from / row_size);
  if (place.block == kNoBlock) return;
  const int64_t head = from % row_size / args.head_dim;
  const int64_t pool_row =
      (static_cast<int64_t>(place.block) * args.kv_heads + head) * args.block_tokens + place.offset;
  const int64_t to = pool_row * args.head_dim + from % args.head_dim;
  thread.Store(args.pool_k + to, thread.Load(args.k + from));
  thread.Store(args.pool_v + to, thread.Load(args.v + from));
}

}  // namespace m1::cuda
