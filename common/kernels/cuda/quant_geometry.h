// Shapes and index maps of the products of integers: those of product_geometry.h in bytes, since
// mma.sync.m16n8k32 places 32 int8 where m16n8k16 places 16 bf16.
//
// A stage holds 128 bytes of each weight row: 128 int8, or 256 int4 beside two rows of 128 integers
// for each row of x (kParts) and the scales of the groups. int8: an output element is one integer,
// exact. int4: it takes the groups of K ascending, acc = fma(fp32(the group's exact sum), its
// scale, acc), in one thread. So its bits do not depend on which of the shapes below computes it.
//
// A lane gets eight nibbles of a weight row in one word and makes both its words of operand A of
// them with three logic operations, in 16ths. The integer accumulator of a group starts at the bits
// of 1.5 * 2^19, so that its sum needs no conversion. Scales whose rows are no multiples of 8 bytes
// (K of small models) take plain loads instead of cp.async.
#pragma once

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_geometry.h"

namespace m1::cuda {

inline constexpr int kQuantStepK = 32;  // of an mma

// kGroup: 0 for int8, else the elements of int4 that share a scale.
template <int group, int features, int tokens, int warps_m, int warps_n, int stages,
          int matrices = 1>
struct QuantShape
    : ProductShape<features, tokens, warps_m, warps_n, stages, matrices, group == 0 ? 1 : 2> {
  using Base =
      ProductShape<features, tokens, warps_m, warps_n, stages, matrices, group == 0 ? 1 : 2>;
  static constexpr int kGroup = group;
  static constexpr int kSliceElements = Base::kParts * kSharedRowBytes;

  // Scales, four at a time: of each weight row those of the slice, after the rows of the stage.
  static constexpr int kSliceGroups = kGroup == 0 ? 0 : kSliceElements / (kGroup == 0 ? 1 : kGroup);
  static constexpr int kScaleRowBytes = kSliceGroups * static_cast<int>(sizeof(Bf16));
  static constexpr int kScalesBegin = Base::kStageBytes;
  static constexpr int kScaleQuads = Base::kWeightRows * kSliceGroups / 4;
  static constexpr int kScaleCopies = CeilDiv(kScaleQuads, Base::kThreads);  // of a thread
  static constexpr int kStageBytes = Base::kStageBytes + Base::kWeightRows * kScaleRowBytes;
  static constexpr int kSharedBytes = Base::kStages * kStageBytes;

  static_assert(kGroup == 0 || kGroup == 32 || kGroup == 64);
  static_assert(kScaleQuads % kWarpLanes == 0);
};

// The first group of four in a stage whose scales a thread brings in; row -1: none.
struct ScaleQuad {
  int row;
  int group;
};
template <typename Shape>
constexpr ScaleQuad CopiedScales(int thread, int copy) {
  const int id = copy * Shape::kThreads + thread;
  if (id >= Shape::kScaleQuads) return {-1, 0};
  constexpr int kQuadsOfRow = Shape::kSliceGroups / 4;
  return {id / kQuadsOfRow, id % kQuadsOfRow * 4};
}

// Byte offset in a stage of the scale of a weight row's group.
template <typename Shape>
constexpr int ScaleOffset(int row, int group) {
  return Shape::kScalesBegin + row * Shape::kScaleRowBytes + group * static_cast<int>(sizeof(Bf16));
}

// Eight nibbles as ldmatrix brings them (elements 8c to 8c + 7 of 32 for lane 4r + c), each less 8
// and times 16, as int8: the even elements are words 0 and 1 of operand A, the odd ones words 2 and
// 3. So element 2s stands at place s of the mma's K, element 2s + 1 at place 16 + s: QuantOrder
// kEvenOdd of x.
constexpr uint32_t EvenNibbles(uint32_t word) { return ((word << 4) & 0xf0f0f0f0U) ^ 0x80808080U; }
constexpr uint32_t OddNibbles(uint32_t word) { return (word & 0xf0f0f0f0U) ^ 0x80808080U; }

// 1.5 * 2^19, whose last bit is worth 2^-4: where the integer that is its bits begins, sums of
// 16ths (up to 64 * 127 * 8) are added to the float, too, exactly.
inline constexpr int32_t kSumStart = 0x49400000;
inline constexpr float kSumStartValue = 786432.0f;

template <int group>
using QuantLinearOne = QuantShape<group, 32, 8, 2, 1, 8>;
template <int group>
using QuantLinearFew = QuantShape<group, 64, 32, 4, 1, 4>;
template <int group>
using QuantLinearMany = QuantShape<group, 128, group == 0 ? 128 : 64, 4, 2, 3>;
template <int group>
using QuantGatedOne = QuantShape<group, 32, 8, 2, 1, 6, 2>;
template <int group>
using QuantGatedFew = QuantShape<group, 64, 32, 4, 1, group == 0 ? 4 : 3, 2>;
template <int group>
using QuantGatedMany = QuantShape<group, 64, group == 0 ? 128 : 64, 4, 2, 3, 2>;

}  // namespace m1::cuda
