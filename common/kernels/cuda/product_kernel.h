// The tensor-core product, as one thread runs it: out[r, f] = epilogue(sum over k of x[r, k] w[f,
// k]). bf16 in, fp32 accumulators, K in steps of 16 ascending, no split along K: see
// product_geometry.h.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_args.h"
#include "common/kernels/cuda/product_geometry.h"

namespace m1::cuda {

template <typename Shape, typename Out, typename Thread>
class ProductBody {
 public:
  M1_DEVICE ProductBody(Thread& thread, const ProductArgs& args, const RowTile& rows)
      : thread_(thread),
        args_(args),
        group_(args.groups[rows.group]),
        first_row_(rows.tile * Shape::kTokens),
        first_feature_(thread.block().y * Shape::kFeatures) {}

  M1_DEVICE void Run() {
    if (first_feature_ >= group_.n) return;
    FindSources();
    const int num_slices = CeilDiv(args_.k, kSliceK);
    for (int slice = 0; slice < Shape::kStages - 1; ++slice) CopySlice(slice, num_slices);
    for (int slice = 0; slice < num_slices; ++slice) {
      thread_.template WaitCopies<Shape::kStages - 2>();
      // Also: every warp has left the stage that the next copy overwrites.
      thread_.Barrier();
      CopySlice(slice + Shape::kStages - 1, num_slices);
      MultiplyStage(slice % Shape::kStages * Shape::kStageBytes);
    }
    StoreTile();
  }

 private:
  // Where each of the thread's chunks begins in the first slice; null where the row does not exist.
  M1_DEVICE void FindSources() {
    M1_UNROLL
    for (int copy = 0; copy < Shape::kCopies; ++copy) {
      const StageChunk to = CopiedChunk<Shape>(thread_.index(), copy);
      const Bf16* row =
          to.row < Shape::kWeightRows ? WeightRow(to.row) : TokenRow(to.row - Shape::kWeightRows);
      sources_[copy] = row == nullptr ? nullptr : row + to.chunk * kChunkElements;
    }
  }

  M1_DEVICE const Bf16* WeightRow(int stage_row) {
    const Bf16* matrix = stage_row < Shape::kFeatures ? group_.w : group_.up;
    const int feature = first_feature_ + stage_row % Shape::kFeatures;
    return feature < group_.n ? matrix + static_cast<int64_t>(feature) * args_.k : nullptr;
  }

  M1_DEVICE const Bf16* TokenRow(int stage_row) {
    const int row = first_row_ + stage_row % Shape::kTokens;
    if (row >= group_.num_rows) return nullptr;
    const int64_t source = ListedRow(args_.gather, group_.row_begin + row);
    return args_.x + stage_row / Shape::kTokens * args_.part_stride + source * args_.k;
  }

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
        const int k = slice * kSliceK + to.chunk * kChunkElements;
        const bool valid = sources_[copy] != nullptr && k < args_.k;
        thread_.CopyAsync16(stage + SharedOffset(to.row, to.chunk),
                            valid ? sources_[copy] + slice * kSliceK : args_.x, valid);
      }
    }
    thread_.CommitCopies();
  }

  M1_DEVICE void MultiplyStage(int stage) {
    M1_UNROLL
    for (int half = 0; half < 2; ++half) {
      Words4 tokens[Shape::kParts][Shape::kTilesN];
      M1_UNROLL
      for (int part = 0; part < Shape::kParts; ++part) {
        M1_UNROLL
        for (int n = 0; n < Shape::kTilesN; ++n) {
          const StageChunk at = TokenChunk<Shape>(thread_.warp(), thread_.lane(), part, n, half);
          tokens[part][n] = thread_.LoadMatrices(stage + SharedOffset(at.row, at.chunk));
        }
      }
      MultiplyStep(stage, 2 * half, tokens);
      MultiplyStep(stage, 2 * half + 1, tokens);
    }
  }

  // One K step of 16. Words 0 and 1 of `tokens` serve the even step of its half slice, 2 and 3 the
  // odd one.
  M1_DEVICE void MultiplyStep(int stage, int step,
                              const Words4 (&tokens)[Shape::kParts][Shape::kTilesN]) {
    const int word = step % 2 * 2;
    M1_UNROLL
    for (int matrix = 0; matrix < Shape::kMatrices; ++matrix) {
      M1_UNROLL
      for (int m = 0; m < Shape::kTilesM; ++m) {
        const StageChunk at = WeightChunk<Shape>(thread_.warp(), thread_.lane(), matrix, m, step);
        const Words4 weights = thread_.LoadMatrices(stage + SharedOffset(at.row, at.chunk));
        M1_UNROLL
        for (int part = 0; part < Shape::kParts; ++part) {
          M1_UNROLL
          for (int n = 0; n < Shape::kTilesN; ++n) {
            thread_.Mma(sums_[matrix][part][m][n], weights, tokens[part][n].word[word],
                        tokens[part][n].word[word + 1]);
          }
        }
      }
    }
  }

  M1_DEVICE void StoreTile() {
    M1_UNROLL
    for (int n = 0; n < Shape::kTilesN; ++n) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) {
        const int row = first_row_ + At(0, n, odd).token;
        if (row >= group_.num_rows) continue;
        const int64_t out_row = ListedRow(args_.scatter, group_.row_begin + row);
        Out* out = static_cast<Out*>(group_.out) + out_row * group_.n;
        M1_UNROLL
        for (int m = 0; m < Shape::kTilesM; ++m) {
          StoreElement(out, m, n, odd);
          StoreElement(out, m, n, odd + 2);
        }
      }
    }
  }

  M1_DEVICE void StoreElement(Out* out, int m, int n, int i) {
    const int feature = first_feature_ + At(m, n, i).feature;
    if (feature < group_.n) thread_.Store(out + feature, Narrow<Out>(Value(m, n, i)));
  }

  M1_DEVICE float Value(int m, int n, int i) {
    if constexpr (Shape::kMatrices == 2) {
      return Silu(sums_[0][0][m][n][i]) * sums_[1][0][m][n][i];
    }
    float sum = sums_[0][Shape::kParts - 1][m][n][i];
    M1_UNROLL
    for (int part = Shape::kParts - 2; part >= 0; --part) sum = sum + sums_[0][part][m][n][i];
    return group_.epilogue == ProductEpilogue::kSilu ? Silu(sum) : sum;
  }

  M1_DEVICE TileElement At(int m, int n, int i) {
    return AccumulatorElement<Shape>(thread_.warp(), thread_.lane(), m, n, i);
  }

  Thread& thread_;
  const ProductArgs& args_;
  const ProductGroup& group_;
  const int first_row_;
  const int first_feature_;
  const Bf16* sources_[Shape::kCopies];
  float sums_[Shape::kMatrices][Shape::kParts][Shape::kTilesM][Shape::kTilesN][4] = {};
};

// Grid: (row tiles of all groups, feature tiles of the widest group).
template <typename Shape, typename Out, typename Thread>
M1_DEVICE void ProductKernel(Thread& thread, const ProductArgs& args) {
  const RowTile rows = FindRowTile(thread.block().x, args.num_groups, Shape::kTokens,
                                   [&](int group) { return args.groups[group].num_rows; });
  if (rows.group < 0) return;
  ProductBody<Shape, Out, Thread>(thread, args, rows).Run();
}

}  // namespace m1::cuda
