// What a warp computes of softmax attention: for its tiles of 8 queries the scores of a key block
// and the online softmax of a segment; the weighted sum of the values is softmax_output.h. The
// order of operations is that of backend.h; only the products of 16 elements at a time are the
// tensor cores' own.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/softmax_args.h"
#include "common/kernels/cuda/softmax_geometry.h"
#include "common/kernels/cuda/softmax_output.h"

namespace m1::cuda {

// A lane holds queries 2 (lane % 4) + odd of each tile, with m and l whole and a part of o.
template <typename Shape, typename Thread>
class SoftmaxTiles {
 public:
  // Queries from `first` on.
  M1_DEVICE SoftmaxTiles(Thread& thread, const SoftmaxArgs& args, const SoftmaxQueries& queries,
                         int first)
      : thread_(thread),
        scale_(args.scale),
        first_(first),
        last_position_(queries.LastPosition(first, Shape::kWarpQueries)),
        o_(thread) {
    LoadQueries(args.q, queries);
    StartSegment();
  }

  M1_DEVICE void StartSegment() {
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) {
        m_[tile][odd] = -Infinity();
        l_[tile][odd] = 0.0f;
      }
    }
    o_.Clear();
  }

  // The key block in stage `stage`. A query that does not see it is left as it was.
  M1_DEVICE void Attend(int stage, int first_key) {
    if (first_key > last_position_) return;
    float s[Shape::kTiles][kKeyTiles][4] = {};
    Score(stage, s);
    uint32_t p[Shape::kTiles][kKeyTiles][2];
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) Weigh(tile, odd, first_key, s[tile]);
      M1_UNROLL
      for (int t = 0; t < kKeyTiles; ++t) {
        p[tile][t][0] = thread_.TransposeMatrix(PackBf16(s[tile][t][0], s[tile][t][1]));
        p[tile][t][1] = thread_.TransposeMatrix(PackBf16(s[tile][t][2], s[tile][t][3]));
      }
    }
    AddValues(stage + Shape::kMatrixBytes, first_key, p);
  }

  M1_DEVICE int Query(int tile, int odd) const {
    return first_ + tile * kMmaN + AccumulatorColumn(thread_.lane(), odd);
  }
  // The last key that it sees; -1 where there is no such query.
  M1_DEVICE int Position(int tile, int odd) const { return position_[tile][odd]; }
  M1_DEVICE float m(int tile, int odd) const { return m_[tile][odd]; }
  M1_DEVICE float l(int tile, int odd) const { return l_[tile][odd]; }
  M1_DEVICE float o(int tile, int dims, int i) const { return o_.at(tile, dims, i); }

 private:
  // Operand B of the scores: elements 2c, 2c + 1 and 2c + 8, 2c + 9 of each K step, where the lane
  // is 4 query + c. Zeros where there is no query.
  M1_DEVICE void LoadQueries(const Bf16* q, const SoftmaxQueries& queries) {
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) position_[tile][odd] = queries.Position(Query(tile, odd));
      const int query = first_ + tile * kMmaN + thread_.lane() / 4;
      const bool exists = query < queries.count();
      const Bf16* row = q + queries.Row(exists ? query : 0) * Shape::kHeadDim;
      M1_UNROLL
      for (int i = 0; i < 2 * Shape::kSteps; ++i) {
        const Bf16* from = row + 8 * i + 2 * (thread_.lane() % 4);
        q_[tile][i] = exists ? thread_.Load(reinterpret_cast<const uint32_t*>(from)) : 0;
      }
    }
  }

  M1_DEVICE void Score(int k, float (&s)[Shape::kTiles][kKeyTiles][4]) {
    M1_UNROLL
    for (int t = 0; t < kKeyTiles; ++t) {
      M1_UNROLL
      for (int step = 0; step < Shape::kSteps; ++step) {
        const Words4 keys =
            thread_.LoadMatrices(k + KeyOffset<Shape>(ScoreOperand(thread_.lane(), t, step)));
        M1_UNROLL
        for (int tile = 0; tile < Shape::kTiles; ++tile) {
          thread_.Mma(s[tile][t], keys, q_[tile][2 * step], q_[tile][2 * step + 1]);
        }
      }
    }
  }

  // Scores of the lane's column `odd` to weights; m, l and o follow.
  M1_DEVICE void Weigh(int tile, int odd, int first_key, float (&s)[kKeyTiles][4]) {
    const int visible = Visible(tile, odd, first_key);
    const float old = m_[tile][odd];
    float max = old;
    M1_UNROLL
    for (int t = 0; t < kKeyTiles; ++t) {
      M1_UNROLL
      for (int i = odd; i < 4; i += 2) {
        s[t][i] = scale_ * s[t][i];
        if (Key(t, i) < visible && s[t][i] > max) max = s[t][i];
      }
    }
    M1_UNROLL
    for (int mask = 4; mask <= 16; mask *= 2) {
      const float other = thread_.ShuffleXor(max, mask);
      max = other > max ? other : max;
    }
    float low = 0.0f;  // keys b with b mod 16 = lane / 4, then those 8 above
    float high = 0.0f;
    M1_UNROLL
    for (int t = 0; t < kKeyTiles; ++t) {
      M1_UNROLL
      for (int i = odd; i < 4; i += 2) {
        s[t][i] = Key(t, i) < visible ? Exp(s[t][i] - max) : 0.0f;
      }
      low = low + s[t][odd];
      high = high + s[t][odd + 2];
    }
    float sum = low + high;
    M1_UNROLL
    for (int mask = 16; mask >= 4; mask /= 2) sum = sum + thread_.ShuffleXor(sum, mask);
    const float c = old == -Infinity() ? 0.0f : Exp(old - max);
    m_[tile][odd] = max;
    l_[tile][odd] = fmaf(l_[tile][odd], c, sum);
    o_.Scale(tile, odd, c);
  }

  // How many keys of the block it sees: none where not positive.
  M1_DEVICE int Visible(int tile, int odd, int first_key) const {
    return Position(tile, odd) + 1 - first_key;
  }
  M1_DEVICE int Key(int key_tile, int i) const {
    return key_tile * kMmaM + AccumulatorRow(thread_.lane(), i);
  }

  M1_DEVICE void AddValues(int v, int first_key, uint32_t (&p)[Shape::kTiles][kKeyTiles][2]) {
    const int least = thread_.Shuffle(Visible(0, 0, first_key), 0);  // of the first query
    if (least >= kKeyBlock) {
      o_.Add(v, p);
      return;
    }
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      const int visible[2] = {Visible(tile, 0, first_key), Visible(tile, 1, first_key)};
      o_.AddVisible(v, tile, visible, p[tile]);
    }
  }

  Thread& thread_;
  const float scale_;
  const int first_;
  const int last_position_;
  int position_[Shape::kTiles][2];
  uint32_t q_[Shape::kTiles][2 * Shape::kSteps];
  float m_[Shape::kTiles][2];
  float l_[Shape::kTiles][2];
  SoftmaxOutput<Shape, Thread> o_;
};

}  // namespace m1::cuda
