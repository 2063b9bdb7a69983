// Softmax attention over paged keys and values, bf16, in segments of kSegmentKeys keys that are
// merged in order. Few rows: SoftmaxSegmentsKernel, a block for each segment to spread a long
// context, and then SoftmaxMergeKernel. Many rows: SoftmaxPromptKernel, a block for all segments. A
// row has the same bits either way.
#pragma once

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/softmax_args.h"
#include "common/kernels/cuda/softmax_geometry.h"
#include "common/kernels/cuda/softmax_keys.h"
#include "common/kernels/cuda/softmax_tiles.h"

namespace m1::cuda {

// Of the segments merged so far.
struct SoftmaxTotal {
  float m = 0.0f;
  float l = 0.0f;
};

// By what o of a segment that joins counts, and o of the total.
struct MergeWeights {
  float segment;
  float total;
};

// Segment 0 starts the total; its o is not merged with anything.
M1_DEVICE MergeWeights MergeSegment(int segment, float m, float l, SoftmaxTotal& total) {
  if (segment == 0) {
    total = {m, l};
    return {};
  }
  const float max = m > total.m ? m : total.m;
  const MergeWeights weights{Exp(m - max), Exp(total.m - max)};
  total = {max, fmaf(l, weights.segment, total.l * weights.total)};
  return weights;
}

M1_DEVICE float MergedOutput(const MergeWeights& weights, float segment_o, float total_o) {
  return fmaf(segment_o, weights.segment, total_o * weights.total);
}

// The block's sequence, with the kv head that it works for.
template <typename Thread>
M1_DEVICE SoftmaxQueries QueriesOf(Thread& thread, const SoftmaxArgs& args, int kv_head,
                                   int sequence) {
  return {thread.Load(args.sequences + sequence), kv_head, args.heads, args.group_heads()};
}

// Grid: SoftmaxSegmentsGrid. Results to args.partials, by the queries that see the segment.
template <typename Shape, typename Thread>
M1_DEVICE void SoftmaxSegmentsKernel(Thread& thread, const SoftmaxArgs& args) {
  const int segment = thread.block().x;
  const SoftmaxQueries queries =
      QueriesOf(thread, args, thread.block().y % args.kv_heads, thread.block().z);
  const int first = thread.block().y / args.kv_heads * Shape::kQueries;
  const int last_position = queries.LastPosition(first, Shape::kQueries);
  if (segment * kSegmentKeys > last_position) return;
  SoftmaxTiles<Shape, Thread> tiles(thread, args, queries,
                                    first + thread.warp() * Shape::kWarpQueries);
  const int begin = segment * kSegmentBlocks;
  const int blocks = last_position / kKeyBlock + 1 - begin;
  SoftmaxKeys<Shape, Thread>(thread, args, queries)
      .Walk(begin, begin + (blocks < kSegmentBlocks ? blocks : kSegmentBlocks),
            [&](int stage, int block) { tiles.Attend(stage, block * kKeyBlock); });
  M1_UNROLL
  for (int tile = 0; tile < Shape::kTiles; ++tile) {
    M1_UNROLL
    for (int odd = 0; odd < 2; ++odd) {
      const int query = tiles.Query(tile, odd);
      if (segment * kSegmentKeys > tiles.Position(tile, odd)) continue;
      const int64_t slot = queries.Slot(query, segment);
      if (thread.lane() / 4 == 0) {
        thread.Store(args.partials.m + slot, tiles.m(tile, odd));
        thread.Store(args.partials.l + slot, tiles.l(tile, odd));
      }
      float* o = args.partials.o + slot * Shape::kHeadDim;
      M1_UNROLL
      for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
        M1_UNROLL
        for (int i = odd; i < 4; i += 2) {
          thread.Store(o + dims * kMmaM + AccumulatorRow(thread.lane(), i), tiles.o(tile, dims, i));
        }
      }
    }
  }
}

// Grid: SoftmaxMergeGrid. A thread has one element of a row.
template <typename Thread>
M1_DEVICE void SoftmaxMergeKernel(Thread& thread, const SoftmaxArgs& args) {
  const int head_dim = args.head_dim;
  const int element = thread.block().x * kMergeThreads + thread.index();
  const int row = element / head_dim / args.heads;
  const int head = element / head_dim % args.heads;
  const SoftmaxQueries queries =
      QueriesOf(thread, args, head / args.group_heads(), thread.block().y);
  if (row >= queries.sequence.num_rows) return;
  const int query = row * args.group_heads() + head % args.group_heads();
  SoftmaxTotal total;
  float o = 0.0f;
  for (int segment = 0; segment < NumSegments(queries.Position(query) + 1); ++segment) {
    const int64_t slot = queries.Slot(query, segment);
    const MergeWeights weights = MergeSegment(segment, thread.Load(args.partials.m + slot),
                                              thread.Load(args.partials.l + slot), total);
    const float segment_o = thread.Load(args.partials.o + slot * head_dim + element % head_dim);
    o = segment == 0 ? segment_o : MergedOutput(weights, segment_o, o);
  }
  thread.Store(args.out + queries.Row(query) * head_dim + element % head_dim,
               Narrow<Bf16>(o / total.l));
}

// The totals of a prompt's queries: m and l in registers, o in shared memory, each thread its own.
template <typename Shape, typename Thread>
class SoftmaxTotals {
 public:
  M1_DEVICE SoftmaxTotals(Thread& thread, Bf16* out, const SoftmaxQueries& queries)
      : thread_(thread), out_(out), queries_(queries) {}

  // The segment joins; queries that see no later one are written out.
  M1_DEVICE void Add(int segment, const SoftmaxTiles<Shape, Thread>& tiles) {
    M1_UNROLL
    for (int tile = 0; tile < Shape::kTiles; ++tile) {
      M1_UNROLL
      for (int odd = 0; odd < 2; ++odd) {
        if (segment * kSegmentKeys > tiles.Position(tile, odd)) continue;
        const bool is_last = (segment + 1) * kSegmentKeys > tiles.Position(tile, odd);
        SoftmaxTotal& total = totals_[tile][odd];
        const MergeWeights weights =
            MergeSegment(segment, tiles.m(tile, odd), tiles.l(tile, odd), total);
        Bf16* out = out_ + queries_.Row(tiles.Query(tile, odd)) * Shape::kHeadDim;
        M1_UNROLL
        for (int dims = 0; dims < Shape::kDimTiles; ++dims) {
          M1_UNROLL
          for (int i = odd; i < 4; i += 2) {
            const int at = TotalOffset<Shape>(thread_.index(), tile, dims, i);
            float o = tiles.o(tile, dims, i);
            if (segment > 0) o = MergedOutput(weights, o, thread_.template LoadShared<float>(at));
            if (is_last) {
              thread_.Store(out + dims * kMmaM + AccumulatorRow(thread_.lane(), i),
                            Narrow<Bf16>(o / total.l));
            } else {
              thread_.StoreShared(at, o);
            }
          }
        }
      }
    }
  }

 private:
  Thread& thread_;
  Bf16* const out_;
  const SoftmaxQueries& queries_;
  SoftmaxTotal totals_[Shape::kTiles][2];
};

// Grid: SoftmaxPromptGrid.
template <typename Shape, typename Thread>
M1_DEVICE void SoftmaxPromptKernel(Thread& thread, const SoftmaxArgs& args) {
  const SoftmaxQueries queries = QueriesOf(thread, args, thread.block().y, thread.block().z);
  const int first = thread.block().x * Shape::kQueries;
  const int last_position = queries.LastPosition(first, Shape::kQueries);
  if (last_position < 0) return;
  const int end = last_position / kKeyBlock + 1;
  SoftmaxTiles<Shape, Thread> tiles(thread, args, queries,
                                    first + thread.warp() * Shape::kWarpQueries);
  SoftmaxTotals<Shape, Thread> totals(thread, args.out, queries);
  SoftmaxKeys<Shape, Thread>(thread, args, queries).Walk(0, end, [&](int stage, int block) {
    tiles.Attend(stage, block * kKeyBlock);
    if ((block + 1) % kSegmentBlocks != 0 && block + 1 != end) return;
    totals.Add(block / kSegmentBlocks, tiles);
    tiles.StartSegment();
  });
}

}  // namespace m1::cuda
