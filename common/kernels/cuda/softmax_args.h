// What the kernels of softmax attention are given, which of them a sequence takes, and who is who
// among the queries. Pointers are device memory.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/softmax_geometry.h"

namespace m1::cuda {

// Rows [row_begin, row_begin + num_rows) of the step stand at positions first_position, ...; token
// p is in block block_table[p / kKeyBlock] of the pool, which holds the rows' own keys already.
struct SoftmaxSequence {
  const int32_t* block_table;
  int32_t first_position;
  int32_t row_begin;
  int32_t num_rows;
  int32_t slot_begin;  // of its num_slots() slots; LaunchSoftmaxFew only

  constexpr int num_keys() const { return first_position + num_rows; }
  // Slots for the results of its segments: one for each row and segment.
  constexpr int64_t num_slots() const {
    return static_cast<int64_t>(num_rows) * NumSegments(num_keys());
  }
};

// Whether a sequence goes to LaunchSoftmaxFew: few queries, that want the blocks of a segment each
// to be many, and slots for their results. The others go to LaunchSoftmaxMany; it has the same
// bits.
inline constexpr int kFewQueries = 32;
constexpr bool TakesSoftmaxFew(const SoftmaxSequence& sequence, int group_heads,
                               int64_t free_slots) {
  return sequence.num_rows * group_heads <= kFewQueries && sequence.num_slots() <= free_slots;
}

// (m, l, o) of segments that are yet to be merged.
struct SoftmaxPartials {
  float* m;  // [slots, heads]
  float* l;  // [slots, heads]
  float* o;  // [slots, heads, head_dim]

  constexpr bool operator==(const SoftmaxPartials&) const = default;
};

// Its scratch memory, and the parts of it.
constexpr int64_t SoftmaxScratchBytes(int64_t slots, int heads, int head_dim) {
  return slots * heads * (head_dim + 2) * 4;
}
constexpr SoftmaxPartials SoftmaxPartialsIn(float* scratch, int64_t slots, int heads) {
  return {scratch, scratch + slots * heads, scratch + 2 * slots * heads};
}

// What pool_k and pool_v hold for a key, infinity and NaN among it, does not reach rows before it.
struct SoftmaxArgs {
  const Bf16* q;                     // [rows, heads, head_dim]
  const Bf16* pool_k;                // [blocks, kv_heads, kKeyBlock, head_dim]
  const Bf16* pool_v;                // [blocks, kv_heads, kKeyBlock, head_dim]
  const SoftmaxSequence* sequences;  // [num_sequences]
  Bf16* out;                         // [rows, heads, head_dim]
  SoftmaxPartials partials;          // LaunchSoftmaxFew only
  float scale;                       // 1 / sqrt(head_dim)
  int32_t num_sequences;
  int32_t heads;  // a multiple of kv_heads
  int32_t kv_heads;
  int32_t head_dim;  // see IsSoftmaxHeadDim
  int32_t max_rows;  // the most of a sequence
  int32_t max_keys;  // at least the most of a sequence, its num_keys()

  constexpr int group_heads() const { return heads / kv_heads; }

  constexpr bool operator==(const SoftmaxArgs&) const = default;
};

// The queries of a sequence under one kv head, row by row: query i is head i % group_heads of the
// kv head's in row i / group_heads.
struct SoftmaxQueries {
  SoftmaxSequence sequence;
  int kv_head;
  int heads;
  int group_heads;

  constexpr int count() const { return sequence.num_rows * group_heads; }
  // The last key that a query sees; -1 where there is no such query.
  constexpr int Position(int query) const {
    return query < count() ? sequence.first_position + query / group_heads : -1;
  }
  // The last key that one of queries [first, first + n) sees; -1 where there are none.
  constexpr int LastPosition(int first, int n) const {
    if (first >= count()) return -1;
    return Position((first + n < count() ? first + n : count()) - 1);
  }
  constexpr int Head(int query) const { return kv_head * group_heads + query % group_heads; }
  // Of q and out, in rows of head_dim.
  constexpr int64_t Row(int query) const {
    return static_cast<int64_t>(sequence.row_begin + query / group_heads) * heads + Head(query);
  }
  // Of the partial results, the same.
  constexpr int64_t Slot(int query, int segment) const {
    const int64_t slot =
        sequence.slot_begin +
        static_cast<int64_t>(query / group_heads) * NumSegments(sequence.num_keys()) + segment;
    return slot * heads + Head(query);
  }
};

// SoftmaxPromptKernel: (parts of a sequence's queries, kv heads, sequences).
template <typename Shape>
constexpr LaunchGrid SoftmaxPromptGrid(const SoftmaxArgs& args) {
  return {{CeilDiv(args.max_rows * args.group_heads(), Shape::kQueries), args.kv_heads,
           args.num_sequences},
          Shape::kThreads,
          Shape::kStagesBytes + Shape::kTotalBytes};
}

// SoftmaxSegmentsKernel: (segments, parts of a sequence's queries times kv heads, sequences).
template <typename Shape>
constexpr LaunchGrid SoftmaxSegmentsGrid(const SoftmaxArgs& args) {
  const int parts = CeilDiv(args.max_rows * args.group_heads(), Shape::kQueries);
  return {{NumSegments(args.max_keys), parts * args.kv_heads, args.num_sequences},
          Shape::kThreads,
          Shape::kStagesBytes};
}

// SoftmaxMergeKernel: (elements of a sequence's output, sequences).
inline constexpr int kMergeThreads = 128;
constexpr LaunchGrid SoftmaxMergeGrid(const SoftmaxArgs& args) {
  return {
      {CeilDiv(args.max_rows * args.heads * args.head_dim, kMergeThreads), args.num_sequences, 1},
      kMergeThreads,
      0};
}

}  // namespace m1::cuda
