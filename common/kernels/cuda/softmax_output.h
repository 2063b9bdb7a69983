// What a warp computes of softmax attention: o of a segment, the weighted sum of the values, for
// its tiles of 8 queries. A lane holds a part of it for queries 2 (lane % 4) + odd of each tile.
#pragma once

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/softmax_geometry.h"

namespace m1::cuda {

template <typename Shape, typename Thread>
class SoftmaxOutput {
 public:
  // Weights of a key block, operand B of each K step.
  using Weights = uint32_t[kKeyTiles][2];

  M1_DEVICE explicit SoftmaxOutput(Thread& thread) : thread_(thread) {}

  M1_DEVICE void Clear() {
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      M1_UNROLL
      for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
        M1_UNROLL
        for (int i = 0; i < 4; ++i) o_[tile][dims][i] = 0.0f;
      }
    }
  }

  M1_DEVICE void Scale(int tile, int odd, float factor) {
    M1_UNROLL
    for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
      o_[tile][dims][odd] = o_[tile][dims][odd] * factor;
      o_[tile][dims][odd + 2] = o_[tile][dims][odd + 2] * factor;
    }
  }

  // The values `v` of a key block that every query sees all of.
  M1_DEVICE void Add(int v, const Weights (&p)[Shape::kTiles]) {
    M1_UNROLL
    for (int step = 0; step < kKeyTiles; ++step) {
      M1_UNROLL
      for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
        const Words4 values = Load(v, dims, step);
        M1_UNROLL
        for (int tile = 0; tile < Shape::kTiles; ++tile) {
          thread_.Mma(o_[tile][dims], values, p[tile][step][0], p[tile][step][1]);
        }
      }
    }
  }

  // The same for one tile where the lane's queries see the first visible[odd] keys alone, some of
  // them none. To a query the values of other keys are zeros, for 0 * infinity is NaN: queries that
  // see as much have a sum of their own, of which the columns of others are dropped. M1's tiles are
  // the 8 heads of one row and take one sum.
  M1_DEVICE void AddVisible(int v, int tile, const int (&visible)[2], Weights& p) {
    int seen = 0;
    M1_NO_UNROLL
    for (int column = 0; column < kMmaN; ++column) {
      const int next = thread_.Shuffle(column % 2 == 0 ? visible[0] : visible[1], column / 2);
      if (next <= seen) continue;
      seen = next;
      const bool kept[2] = {visible[0] == seen, visible[1] == seen};
      M1_NO_UNROLL
      for (int step = 0; step < kKeyTiles; ++step) {
        M1_UNROLL
        for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
          Words4 values = Load(v, dims, step);
          float sum[4];
          M1_UNROLL
          for (int i = 0; i < 4; ++i) {
            values.word[i] &= ValueMask(thread_.lane(), i, seen - step * kMmaK);
            sum[i] = o_[tile][dims][i];
          }
          thread_.Mma(sum, values, p[0][0], p[0][1]);
          M1_UNROLL
          for (int i = 0; i < 4; ++i) {
            if (kept[i % 2]) o_[tile][dims][i] = sum[i];
          }
        }
        Turn(p);
      }
    }
  }

  // Zeros are +0, whatever sign their sum got.
  M1_DEVICE float at(int tile, int dims, int i) const { return o_[tile][dims][i] + 0.0f; }

 private:
  M1_DEVICE Words4 Load(int v, int dims, int step) {
    return thread_.LoadMatricesTransposed(
        v + KeyOffset<Shape>(ValueOperand(thread_.lane(), dims, step)));
  }

  // Brings the next K step's weights to the front: registers have no index. kKeyTiles turns bring
  // them back.
  M1_DEVICE static void Turn(Weights& p) {
    M1_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint32_t first = p[0][i];
      M1_UNROLL
      for (int t = 0; t + 1 < kKeyTiles; ++t) p[t][i] = p[t + 1][i];
      p[kKeyTiles - 1][i] = first;
    }
  }

  Thread& thread_;
  float o_[Shape::kTiles][Shape::kDimTiles][4];
};

}  // namespace m1::cuda
