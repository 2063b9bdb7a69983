// Products with int8 and int4 weights, as one thread runs them: the pipeline of product_kernel.h
// over bytes. Linear: out = epilogue(x w^T); gated: out = silu(x w^T) * (x up^T), for each group.
#pragma once

#include <type_traits>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/quant_args.h"
#include "common/kernels/cuda/quant_geometry.h"
#include "common/kernels/cuda/quant_sums.h"

namespace m1::cuda {

template <typename Shape, typename Out, typename Thread>
class QuantBody {
 public:
  M1_DEVICE QuantBody(Thread& thread, const QuantProductArgs& args, const RowTile& rows)
      : thread_(thread),
        args_(args),
        group_(args.groups[rows.group]),
        first_row_(rows.tile * Shape::kTokens),
        first_feature_(thread.block().y * Shape::kFeatures) {}

  M1_DEVICE void Run() {
    if (first_feature_ >= group_.n) return;
    FindSources();
    const int num_slices = CeilDiv(args_.k, Shape::kSliceElements);
    for (int slice = 0; slice < Shape::kStages - 1; ++slice) CopySlice(slice, num_slices);
    for (int slice = 0; slice < num_slices; ++slice) {
      thread_.template WaitCopies<Shape::kStages - 2>();
      // Also: every warp has left the stage that the next copy overwrites.
      thread_.Barrier();
      CopySlice(slice + Shape::kStages - 1, num_slices);
      sums_.AddStage(thread_, slice % Shape::kStages * Shape::kStageBytes,
                     args_.k - slice * Shape::kSliceElements);
    }
    StoreTile();
  }

 private:
  using Sums =
      std::conditional_t<Shape::kGroup == 0, Int8Sums<Shape, Thread>, Int4Sums<Shape, Thread>>;

  // The rows of which the thread brings in chunks; null where they do not exist.
  M1_DEVICE void FindSources() {
    M1_UNROLL
    for (int copy = 0; copy < Shape::kCopies; ++copy) {
      const int row = CopiedChunk<Shape>(thread_.index(), copy).row;
      sources_[copy] = row < Shape::kWeightRows ? WeightRow(row) : TokenRow(row);
    }
  }

  M1_DEVICE int WeightRowBytes() const { return Shape::kGroup == 0 ? args_.k : args_.k / 2; }

  M1_DEVICE const QuantMatrix& MatrixOf(int stage_row) const {
    return stage_row < Shape::kFeatures ? group_.w : group_.up;
  }
  M1_DEVICE int FeatureOf(int stage_row) const {
    return first_feature_ + stage_row % Shape::kFeatures;
  }

  M1_DEVICE const unsigned char* WeightRow(int stage_row) {
    const int feature = FeatureOf(stage_row);
    if (feature >= group_.n) return nullptr;
    return static_cast<const unsigned char*>(MatrixOf(stage_row).values) +
           static_cast<int64_t>(feature) * WeightRowBytes();
  }

  M1_DEVICE const unsigned char* TokenRow(int stage_row) {
    const int row = first_row_ + (stage_row - Shape::kWeightRows) % Shape::kTokens;
    if (row >= group_.num_rows) return nullptr;
    return reinterpret_cast<const unsigned char*>(args_.x) + SourceRow(row) * args_.k;
  }

  // Of x, for row `row` of the group.
  M1_DEVICE int64_t SourceRow(int row) { return ListedRow(args_.gather, group_.row_begin + row); }
  M1_DEVICE int64_t ListedRow(const int32_t* list, int entry) {
    return list == nullptr ? entry : thread_.Load(list + entry);
  }

  // Past the last slice there is nothing to copy, but still a group to count.
  M1_DEVICE void CopySlice(int slice, int num_slices) {
    if (slice < num_slices) {
      const int stage = slice % Shape::kStages * Shape::kStageBytes;
      M1_UNROLL
      for (int copy = 0; copy < Shape::kCopies; ++copy) {
        const StageChunk to = CopiedChunk<Shape>(thread_.index(), copy);
        const bool weights = to.row < Shape::kWeightRows;
        const int part = weights ? 0 : (to.row - Shape::kWeightRows) / Shape::kTokens;
        const int begin = (slice * (weights ? 1 : Shape::kParts) + part) * kSharedRowBytes +
                          to.chunk * kChunkBytes;  // in the row
        const bool valid =
            sources_[copy] != nullptr && begin < (weights ? WeightRowBytes() : args_.k);
        const void* const nowhere = args_.x;
        thread_.CopyAsync16(stage + SharedOffset(to.row, to.chunk),
                            valid ? sources_[copy] + begin : nowhere, valid);
      }
      if constexpr (Shape::kGroup != 0) CopyScales(slice, stage);
    }
    thread_.CommitCopies();
  }

  M1_DEVICE void CopyScales(int slice, int stage) {
    M1_UNROLL
    for (int copy = 0; copy < Shape::kScaleCopies; ++copy) {
      const ScaleQuad quad = CopiedScales<Shape>(thread_.index(), copy);
      if (quad.row < 0) break;
      const int feature = FeatureOf(quad.row);
      const int num_groups = args_.k / Shape::kGroup;
      const int group = slice * Shape::kSliceGroups + quad.group;
      const int count = feature < group_.n ? num_groups - group : 0;
      const Bf16* const from = static_cast<const Bf16*>(MatrixOf(quad.row).scales) +
                               static_cast<int64_t>(feature) * num_groups + group;
      CopyQuad(stage + ScaleOffset<Shape>(quad.row, quad.group), from, count, num_groups % 4 == 0);
    }
  }

  struct alignas(8) Quad {
    Bf16 scale[4];
  };

  // `count` of the four scales exist. Rows of other than fours (small models) do not lie at
  // multiples of 8 bytes.
  M1_DEVICE void CopyQuad(int to, const Bf16* from, int count, bool aligned) {
    if (aligned) {
      const void* const nowhere = args_.x;
      return thread_.CopyAsync8(to, count > 0 ? from : nowhere, count > 0);
    }
    Quad quad;
    M1_UNROLL
    for (int i = 0; i < 4; ++i) quad.scale[i] = i < count ? thread_.Load(from + i) : Bf16{};
    thread_.StoreShared(to, quad);
  }

  M1_DEVICE void StoreTile() {
    sums_.LoadScales(thread_, group_.w, 0, first_feature_, group_.n);
    if constexpr (Shape::kMatrices == 2) {
      sums_.LoadScales(thread_, group_.up, 1, first_feature_, group_.n);
    }
    M1_UNROLL
    for (int n = 0; n < Shape::kTilesN; ++n) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) StoreRow(n, odd);
    }
  }

  M1_DEVICE void StoreRow(int n, int odd) {
    const int row = first_row_ + At(0, n, odd).token;
    if (row >= group_.num_rows) return;
    const float row_scale = thread_.Load(args_.x_scales + SourceRow(row));
    const int64_t out_row = ListedRow(args_.scatter, group_.row_begin + row);
    Out* const out = static_cast<Out*>(group_.out) + out_row * group_.n;
    M1_UNROLL
    for (int m = 0; m < Shape::kTilesM; ++m) {
      M1_UNROLL
      for (int i = odd; i < 4; i += 2) {
        const int feature = first_feature_ + At(m, n, i).feature;
        if (feature >= group_.n) continue;
        thread_.Store(out + feature, Narrow<Out>(Value(m, n, i, row_scale)));
      }
    }
  }

  M1_DEVICE float Value(int m, int n, int i, float row_scale) {
    const float value = sums_.Value(0, m, n, i, row_scale);
    if constexpr (Shape::kMatrices == 2) {
      return Silu(value) * sums_.Value(1, m, n, i, row_scale);
    }
    return group_.epilogue == ProductEpilogue::kSilu ? Silu(value) : value;
  }

  M1_DEVICE TileElement At(int m, int n, int i) {
    return AccumulatorElement<Shape>(thread_.warp(), thread_.lane(), m, n, i);
  }

  Thread& thread_;
  const QuantProductArgs& args_;
  const QuantGroup& group_;
  const int first_row_;
  const int first_feature_;
  const unsigned char* sources_[Shape::kCopies];
  Sums sums_;
};

// Grid: ProductGrid<Shape>(args).
template <typename Shape, typename Out, typename Thread>
M1_DEVICE void QuantProductKernel(Thread& thread, const QuantProductArgs& args) {
  const RowTile rows = FindRowTile(thread.block().x, args.num_groups, Shape::kTokens,
                                   [&](int group) { return args.groups[group].num_rows; });
  if (rows.group < 0) return;
  QuantBody<Shape, Out, Thread>(thread, args, rows).Run();
}

}  // namespace m1::cuda
