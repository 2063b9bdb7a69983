// LogSumExp with the bits of the CPU: the 16 sums of backend.h in their order, a block for each
// row.
#pragma once

#include <bit>
#include <cstdint>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"
#include "common/kernels/cuda/vocab_block.h"

namespace m1::cuda {

template <typename Thread>
class LogSumExpBody {
 public:
  M1_DEVICE LogSumExpBody(Thread& thread, const LogSumExpArgs& args)
      : thread_(thread),
        logits_(args.logits + static_cast<int64_t>(thread.block().x) * args.vocab),
        vocab_(args.vocab),
        temperature_(thread.Load(args.temperatures + thread.block().x)),
        lse_(args.lse + thread.block().x) {}

  M1_DEVICE void Run() {
    if (!FindMax()) {
      if (thread_.index() == 0) thread_.Store(lse_, QuietNaN());
      return;
    }
    float sum = 0.0f;  // of lane j mod 16, in warp 0
    const int tiles = CeilDiv(vocab_, kTileTokens);
    for (int tile = 0; tile <= tiles; ++tile) {
      if (thread_.warp() > 0 && tile < tiles) Fill(tile);
      if (thread_.warp() == 0 && tile > 0) sum = AddTile(tile - 1, sum);
      thread_.Barrier();
    }
    if (thread_.warp() > 0) return;
    for (int mask = kSumLanes / 2; mask > 0; mask /= 2) {
      sum = sum + thread_.ShuffleXor(sum, mask);
    }
    if (thread_.lane() == 0) thread_.Store(lse_, max_ + Log(sum));
  }

 private:
  static constexpr int kFloatBytes = static_cast<int>(sizeof(float));

  // False where a logit is not finite. Division keeps the order: the largest quotient is that of
  // the largest logit.
  M1_DEVICE bool FindMax() {
    uint64_t values[kSumReduced] = {0, 0};  // order of the largest; whether one is not finite
    ForTokens(thread_, {thread_.index(), vocab_, kVocabThreads}, logits_, nullptr,
              [&](int, float logit, float) {
                const uint64_t order = OrderOf(logit);
                if (order > values[0]) values[0] = order;
                if ((std::bit_cast<uint32_t>(logit) & kInfinityBits) == kInfinityBits) {
                  values[1] = 1;
                }
              });
    ReduceBlock(thread_, kSumResults, values, LargerKey());
    max_ = Quotient(LogitOfOrder(static_cast<uint32_t>(values[0])), temperature_);
    return values[1] == 0;
  }

  M1_DEVICE static int OffsetOf(int tile, int token) {
    return tile % 2 * kTileBytes + token * kFloatBytes;
  }

  // exp(logit / temperature - max), +0 behind the row's end.
  M1_DEVICE void Fill(int tile) {
    const int thread = thread_.index() - kWarpLanes;
    const int first = tile * kTileTokens;
    float logits[kVocabBatch];
    M1_UNROLL
    for (int i = 0; i < kVocabBatch; ++i) {
      const int id = first + i * kFillThreads + thread;
      logits[i] = id < vocab_ ? thread_.Load(logits_ + id) : -Infinity();
    }
    M1_UNROLL
    for (int i = 0; i < kVocabBatch; ++i) {
      const int token = i * kFillThreads + thread;
      const float term =
          first + token < vocab_ ? Exp(Quotient(logits[i], temperature_) - max_) : 0.0f;
      thread_.StoreShared(OffsetOf(tile, token), term);
    }
  }

  // Lanes 16 to 31 do what 0 to 15 do.
  M1_DEVICE float AddTile(int tile, float sum) {
    for (int step = 0; step < kTileTokens; step += kSumLanes * kVocabBatch) {
      float terms[kVocabBatch];
      M1_UNROLL
      for (int i = 0; i < kVocabBatch; ++i) {
        const int token = step + i * kSumLanes + thread_.lane() % kSumLanes;
        terms[i] = thread_.template LoadShared<float>(OffsetOf(tile, token));
      }
      M1_UNROLL
      for (int i = 0; i < kVocabBatch; ++i) sum = sum + terms[i];
    }
    return sum;
  }

  Thread& thread_;
  const float* const logits_;
  const int vocab_;
  const float temperature_;
  float* const lse_;
  float max_ = 0.0f;
};

}  // namespace m1::cuda
