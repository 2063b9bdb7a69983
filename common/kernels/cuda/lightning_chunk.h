// What lightning attention computes of one chunk's rows, with k, v and a group of rows of q in
// shared memory as floats. Thread e of the block has column e.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/lightning_geometry.h"
#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

struct alignas(8) Float2 {
  float value[2];
};
struct alignas(16) Float4 {
  float value[4];
};

template <typename Act, int kRows, typename Thread>
class LightningChunk {
 public:
  M1_DEVICE LightningChunk(Thread& thread, int head_dim, float decay)
      : thread_(thread), dim_(head_dim), decay_(decay), shared_(LightningLayout(head_dim, kRows)) {}

  // This thread's column; rows of k and v by their place in the chunk, of q by that in the group.
  M1_DEVICE void PutQuery(int row, float q) { Put(shared_.q, row, q); }
  M1_DEVICE void PutKey(int row, float k) { Put(shared_.k, row, k); }
  M1_DEVICE void PutValue(int row, float v) { Put(shared_.v, row, v); }
  M1_DEVICE float Value(int row) { return Load<float>(shared_.v, row, thread_.index()); }
  M1_DEVICE Float4 Query4(int row, int c) { return Load<Float4>(shared_.q, row, c); }
  M1_DEVICE Float4 Key4(int row, int c) { return Load<Float4>(shared_.k, row, c); }

  M1_DEVICE float DecayOver(int rows) const { return Exp(-decay_ * static_cast<float>(rows)); }

  // weights[r, b] = act(exp(-s (i - b)) * (q_r . k_b)) for row i = first + r of the chunk, half a
  // warp for each. A warp takes two neighbouring b, so that its halves never read the same bank.
  M1_DEVICE void WeighKeys(int first, int count) {
    const int half = thread_.index() / kDotLanes;
    const int halves = dim_ / kDotLanes;
    const int keys = (first + count + 1) / 2 * 2;
    for (int pair = half; pair < count * keys; pair += halves) {
      const int r = pair / keys;
      const int i = first + r;
      const int b = pair % keys;
      const bool visible = b <= i;
      const float qk = AddDotLanes(visible ? DotLane(r, b) : 0.0f);
      thread_.StoreSharedIf(visible && thread_.lane() % kDotLanes == 0, WeightAt(r, b),
                            RoundToAct(DecayOver(i - b) * qk));
    }
  }

  // Column form over b <= i of weights[r, b] v_b[e]. In pairs by index for bf16, the odd one first
  // and as zero where it is past i.
  M1_DEVICE float AddValues(int r, int i) {
    float sum = 0.0f;
    for (int b = 0; b <= i; b += kIsBf16 ? 2 : 1) {
      if (kIsBf16) sum = b < i ? fmaf(Weight(r, b + 1), Value(b + 1), sum) : fmaf(0.0f, 0.0f, sum);
      sum = fmaf(Weight(r, b), Value(b), sum);
    }
    return sum;
  }

  // k_b = act(k_b * exp(-s (31 - b))): the keys as the fold takes them.
  M1_DEVICE void DecayKeys() {
    for (int b = 0; b < kChunkRows; ++b) {
      const float k = Load<float>(shared_.k, b, thread_.index());
      PutKey(b, RoundToAct(k * DecayOver(kChunkRows - 1 - b)));
    }
  }

  // fold[i] = sum over b of k_b[c + i] v_b[e], in column form.
  M1_DEVICE void FoldKeys(int c, float (&fold)[4]) {
    constexpr int kFirst = kIsBf16 ? 1 : 0;
    M1_UNROLL
    for (int i = 0; i < 4; ++i) fold[i] = 0.0f;
    for (int b = 0; b < kChunkRows; b += 2) {
      AddFold(c, b + kFirst, fold);
      AddFold(c, b + 1 - kFirst, fold);
    }
  }

 private:
  static constexpr int kFloat = static_cast<int>(sizeof(float));
  static constexpr bool kIsBf16 = sizeof(Act) == sizeof(Bf16);

  M1_DEVICE static float RoundToAct(float value) { return Widen(Narrow<Act>(value)); }

  M1_DEVICE int At(int matrix, int row, int column) const {
    return matrix + (row * LightningRowStride(dim_) + column) * kFloat;
  }
  template <typename T>
  M1_DEVICE T Load(int matrix, int row, int column) {
    return thread_.template LoadShared<T>(At(matrix, row, column));
  }
  M1_DEVICE void Put(int matrix, int row, float value) {
    thread_.StoreShared(At(matrix, row, thread_.index()), value);
  }
  M1_DEVICE int WeightAt(int r, int b) const {
    return shared_.weights + (r * kChunkRows + b) * kFloat;
  }
  M1_DEVICE float Weight(int r, int b) {
    return thread_.template LoadShared<float>(WeightAt(r, b));
  }

  // This lane's share of q_r . k_b in dot form.
  M1_DEVICE float DotLane(int r, int b) {
    const int lane = thread_.lane() % kDotLanes;
    float sum = 0.0f;
    for (int begin = 0; begin < dim_; begin += 2 * kDotLanes) {
      if constexpr (kIsBf16) {
        const int at = begin + 2 * lane;
        const Float2 q = Load<Float2>(shared_.q, r, at);
        const Float2 k = Load<Float2>(shared_.k, b, at);
        sum = fmaf(q.value[1], k.value[1], sum);
        sum = fmaf(q.value[0], k.value[0], sum);
      } else {
        for (int at = begin + lane; at < begin + 2 * kDotLanes; at += kDotLanes) {
          sum = fmaf(Load<float>(shared_.q, r, at), Load<float>(shared_.k, b, at), sum);
        }
      }
    }
    return sum;
  }

  M1_DEVICE float AddDotLanes(float sum) {
    for (int mask = kDotLanes / 2; mask > 0; mask /= 2) sum = sum + thread_.ShuffleXor(sum, mask);
    return sum;
  }

  M1_DEVICE void AddFold(int c, int b, float (&fold)[4]) {
    const Float4 k = Key4(b, c);
    const float v = Value(b);
    M1_UNROLL
    for (int i = 0; i < 4; ++i) fold[i] = fmaf(k.value[i], v, fold[i]);
  }

  Thread& thread_;
  const int dim_;
  const float decay_;
  const LightningShared shared_;
};

}  // namespace m1::cuda
