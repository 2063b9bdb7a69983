// The sums that a thread of an integer product keeps, and how a stage of weights and rows adds to
// them: see quant_geometry.h.
#pragma once

#include <bit>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/quant_args.h"
#include "common/kernels/cuda/quant_geometry.h"

namespace m1::cuda {

// Rows of x of half a part: words 0 and 1 are operand B of its first K step, 2 and 3 of the second.
template <typename Shape, typename Thread>
M1_DEVICE void LoadTokens(Thread& thread, int stage, int part, int half,
                          Words4 (&tokens)[Shape::kTilesN]) {
  M1_UNROLL
  for (int n = 0; n < Shape::kTilesN; ++n) {
    const StageChunk at = TokenChunk<Shape>(thread.warp(), thread.lane(), part, n, half);
    tokens[n] = thread.LoadMatrices(stage + SharedOffset(at.row, at.chunk));
  }
}

template <typename Shape, typename Thread>
M1_DEVICE Words4 LoadWeights(Thread& thread, int stage, int matrix, int m, int step) {
  const StageChunk at = WeightChunk<Shape>(thread.warp(), thread.lane(), matrix, m, step);
  return thread.LoadMatrices(stage + SharedOffset(at.row, at.chunk));
}

// int8: one integer for each output element.
template <typename Shape, typename Thread>
class Int8Sums {
 public:
  // Past k both operands are zeros.
  M1_DEVICE void AddStage(Thread& thread, int stage, int /*k_left*/) {
    M1_UNROLL
    for (int half = 0; half < 2; ++half) {
      Words4 tokens[Shape::kTilesN];
      LoadTokens<Shape>(thread, stage, 0, half, tokens);
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) AddStep(thread, stage, 2 * half + odd, tokens);
    }
  }

  // The scales of the matrix' rows, where they exist.
  M1_DEVICE void LoadScales(Thread& thread, const QuantMatrix& w, int matrix, int first_feature,
                            int n) {
    M1_UNROLL
    for (int m = 0; m < Shape::kTilesM; ++m) {
      M1_UNROLL
      for (int upper = 0; upper < 2; ++upper) {
        const TileElement at =
            AccumulatorElement<Shape>(thread.warp(), thread.lane(), m, 0, 2 * upper);
        const int feature = first_feature + at.feature;
        scales_[matrix][m][upper] =
            feature < n ? thread.Load(static_cast<const float*>(w.scales) + feature) : 0.0f;
      }
    }
  }

  M1_DEVICE float Value(int matrix, int m, int n, int i, float row_scale) const {
    return static_cast<float>(sums_[matrix][m][n][i]) * (row_scale * scales_[matrix][m][i / 2]);
  }

 private:
  M1_DEVICE void AddStep(Thread& thread, int stage, int step,
                         const Words4 (&tokens)[Shape::kTilesN]) {
    const int word = step % 2 * 2;
    M1_UNROLL
    for (int matrix = 0; matrix < Shape::kMatrices; ++matrix) {
      M1_UNROLL
      for (int m = 0; m < Shape::kTilesM; ++m) {
        const Words4 weights = LoadWeights<Shape>(thread, stage, matrix, m, step);
        M1_UNROLL
        for (int n = 0; n < Shape::kTilesN; ++n) {
          int32_t(&sum)[4] = sums_[matrix][m][n];
          thread.MmaInt8(sum, sum, weights, tokens[n].word[word], tokens[n].word[word + 1]);
        }
      }
    }
  }

  int32_t sums_[Shape::kMatrices][Shape::kTilesM][Shape::kTilesN][4] = {};
  float scales_[Shape::kMatrices][Shape::kTilesM][2];
};

// int4: an integer for each group, added to fp32 as soon as it is whole.
template <typename Shape, typename Thread>
class Int4Sums {
 public:
  // Two K steps of 32 at a time; 64 of K are one group or two. Of groups past k all is zeros.
  M1_DEVICE void AddStage(Thread& thread, int stage, int k_left) {
    M1_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      if (pair * kPairK >= k_left) break;
      Words4 tokens[Shape::kTilesN];
      LoadTokens<Shape>(thread, stage, pair / 2, pair % 2, tokens);
      M1_UNROLL
      for (int matrix = 0; matrix < Shape::kMatrices; ++matrix) {
        M1_UNROLL
        for (int m = 0; m < Shape::kTilesM; ++m) {
          const Words4 nibbles = LoadWeights<Shape>(thread, stage, matrix, m, pair);
          AddPair(thread, nibbles, tokens, Place{stage, matrix, m, pair});
        }
      }
    }
  }

  M1_DEVICE void LoadScales(Thread& /*thread*/, const QuantMatrix& /*w*/, int /*matrix*/,
                            int /*first_feature*/, int /*n*/) {}

  M1_DEVICE float Value(int matrix, int m, int n, int i, float row_scale) const {
    return sums_[matrix][m][n][i] * row_scale;
  }

 private:
  static constexpr int kPairK = 2 * kQuantStepK;
  static constexpr int kPairs = Shape::kSliceElements / kPairK;

  // Of a group: which rows' scale it has.
  struct Place {
    int stage;
    int matrix;
    int m;
    int pair;
  };
  // Of rows r and r + 8 of a tile, for lanes 4r to 4r + 3.
  struct Scales {
    float row[2];
  };

  M1_DEVICE void AddPair(Thread& thread, const Words4& nibbles,
                         const Words4 (&tokens)[Shape::kTilesN], const Place& at) {
    const Words4 first_step = Expand(nibbles, 0);
    const Words4 second_step = Expand(nibbles, 1);
    if constexpr (Shape::kGroup == kPairK) {
      const Scales scales = LoadGroupScales(thread, at, at.pair);
      M1_UNROLL
      for (int n = 0; n < Shape::kTilesN; ++n) {
        int32_t sum[4];
        Start(thread, sum, first_step, tokens[n], 0);
        thread.MmaInt8(sum, sum, second_step, tokens[n].word[2], tokens[n].word[3]);
        AddGroup(sum, scales, sums_[at.matrix][at.m][n]);
      }
    } else {
      AddStepGroup(thread, first_step, tokens, at, 0);
      AddStepGroup(thread, second_step, tokens, at, 1);
    }
  }

  M1_DEVICE void AddStepGroup(Thread& thread, const Words4& weights,
                              const Words4 (&tokens)[Shape::kTilesN], const Place& at, int odd) {
    const Scales scales = LoadGroupScales(thread, at, 2 * at.pair + odd);
    M1_UNROLL
    for (int n = 0; n < Shape::kTilesN; ++n) {
      int32_t sum[4];
      Start(thread, sum, weights, tokens[n], odd);
      AddGroup(sum, scales, sums_[at.matrix][at.m][n]);
    }
  }

  M1_DEVICE static Words4 Expand(const Words4& nibbles, int odd) {
    const uint32_t lower_row = nibbles.word[2 * odd];
    const uint32_t upper_row = nibbles.word[2 * odd + 1];
    return {{EvenNibbles(lower_row), EvenNibbles(upper_row), OddNibbles(lower_row),
             OddNibbles(upper_row)}};
  }

  M1_DEVICE static void Start(Thread& thread, int32_t (&sum)[4], const Words4& weights,
                              const Words4& tokens, int odd) {
    const int32_t start[4] = {kSumStart, kSumStart, kSumStart, kSumStart};
    thread.MmaInt8(sum, start, weights, tokens.word[2 * odd], tokens.word[2 * odd + 1]);
  }

  M1_DEVICE static void AddGroup(const int32_t (&sum)[4], const Scales& scales, float (&to)[4]) {
    M1_UNROLL
    for (int i = 0; i < 4; ++i) {
      to[i] = fmaf(std::bit_cast<float>(sum[i]) - kSumStartValue, scales.row[i / 2], to[i]);
    }
  }

  M1_DEVICE static Scales LoadGroupScales(Thread& thread, const Place& at, int group) {
    Scales scales;
    M1_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      const TileElement element =
          AccumulatorElement<Shape>(thread.warp(), thread.lane(), at.m, 0, 2 * upper);
      const int row = at.matrix * Shape::kFeatures + element.feature;
      scales.row[upper] =
          Bf16ToFloat(thread.template LoadShared<Bf16>(at.stage + ScaleOffset<Shape>(row, group)));
    }
    return scales;
  }

  float sums_[Shape::kMatrices][Shape::kTilesM][Shape::kTilesN][4] = {};
};

}  // namespace m1::cuda
