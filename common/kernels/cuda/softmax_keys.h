// The way of a sequence's keys and values through shared memory: key blocks in order, one computed
// with while the next arrives.
#pragma once

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/softmax_args.h"
#include "common/kernels/cuda/softmax_geometry.h"

namespace m1::cuda {

template <typename Shape, typename Thread>
class SoftmaxKeys {
 public:
  M1_DEVICE SoftmaxKeys(Thread& thread, const SoftmaxArgs& args, const SoftmaxQueries& queries)
      : thread_(thread), args_(args), queries_(queries) {}

  // visit(stage, block) for key blocks [begin, end), by all threads of the block.
  template <typename Visit>
  M1_DEVICE void Walk(int begin, int end, Visit visit) {
    FindBlock(begin, end);
    for (int block = begin; block < begin + Shape::kStages - 1; ++block) Bring(block, end);
    for (int block = begin; block < end; ++block) {
      thread_.template WaitCopies<Shape::kStages - 2>();
      // Also: every warp has left the stage that the next copy overwrites.
      thread_.Barrier();
      Bring(block + Shape::kStages - 1, end);
      visit(StageOf(block), block);
    }
  }

 private:
  M1_DEVICE static int StageOf(int block) { return block % Shape::kStages * Shape::kStageBytes; }

  // Where the next block to be brought lies in the pool: read early, for it is waited for.
  M1_DEVICE void FindBlock(int block, int end) {
    if (block < end) pool_block_ = thread_.Load(queries_.sequence.block_table + block);
  }

  // Rows past the sequence's last key become zeros: nobody has written them. Past the last block
  // there is nothing to copy, but still a group to count.
  M1_DEVICE void Bring(int block, int end) {
    if (block < end) {
      const int rows = queries_.sequence.num_keys() - block * kKeyBlock;
      const int64_t pool_row =
          static_cast<int64_t>(pool_block_) * args_.kv_heads + queries_.kv_head;
      const int64_t begin = pool_row * kKeyBlock * Shape::kHeadDim;
      Copy(begin, rows, StageOf(block));
    }
    thread_.CommitCopies();
    FindBlock(block + 1, end);
  }

  // Written so that a few addresses and one condition at a time serve all copies.
  M1_DEVICE void Copy(int64_t begin, int rows, int stage) {
    constexpr int kTurnKeys = Shape::kCopyTurn * Shape::kThreads / Shape::kKeyChunks;
    M1_UNROLL
    for (int copy = 0; copy < Shape::kMatrixCopies; ++copy) {
      const KeyChunk at = CopiedKeyChunk<Shape>(thread_.index(), copy % Shape::kCopyTurn);
      const int key = copy / Shape::kCopyTurn * kTurnKeys;
      const int64_t from = begin + (key + at.key) * Shape::kHeadDim + at.chunk * kChunkElements;
      const int to = stage + KeyOffset<Shape>(at) + key * Shape::kHeadDim * 2;
      const bool valid = key + at.key < rows;
      thread_.CopyAsync16(to, args_.pool_k + from, valid);
      thread_.CopyAsync16(to + Shape::kMatrixBytes, args_.pool_v + from, valid);
    }
  }

  Thread& thread_;
  const SoftmaxArgs& args_;
  const SoftmaxQueries& queries_;
  int32_t pool_block_ = 0;
};

}  // namespace m1::cuda
