// Lightning attention, prefill and decode alike, with the order of operations of backend.h and so
// its very bits: fused multiply-adds, no mma. kRows rows of a chunk meet the state together; decode
// takes one, a chunk of a prompt eight at a time.
#pragma once

#include "common/kernels/cuda/lightning_args.h"
#include "common/kernels/cuda/lightning_chunk.h"
#include "common/kernels/cuda/lightning_geometry.h"
#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

template <typename Act, int kRows, typename Thread>
class LightningBody {
 public:
  M1_DEVICE LightningBody(Thread& thread, const LightningArgs<Act>& args)
      : thread_(thread),
        args_(args),
        sequence_(thread.Load(args.sequences + thread.block().y)),
        head_(thread.block().x),
        dim_(args.head_dim),
        chunk_(thread, args.head_dim, thread.Load(args.decays + thread.block().x)),
        state_(sequence_.state + static_cast<int64_t>(head_) * dim_ * dim_ + thread.index()) {}

  M1_DEVICE void Run() {
    for (int row = 0; row < sequence_.num_rows;) {
      const ChunkRows rows = RowsInChunk(sequence_.first_position + row, sequence_.num_rows - row);
      thread_.Barrier();  // everybody has left the chunk before
      BringChunk(rows, sequence_.row_begin + row);
      for (int group = 0; group < rows.count; group += kRows) {
        const int count = rows.count - group < kRows ? rows.count - group : kRows;
        AttendRows(rows.first + group, count, sequence_.row_begin + row + group);
      }
      if (rows.fills) Fold();
      row += rows.count;
    }
  }

 private:
  M1_DEVICE const Act* Qkv(int row, int which) const {
    return args_.qkv + ((static_cast<int64_t>(row) * args_.heads + head_) * 3 + which) * dim_;
  }

  // k and v of the chunk up to the last new row: the open chunk's, then the new ones, which join
  // it.
  M1_DEVICE void BringChunk(const ChunkRows& rows, int first_row) {
    const int e = thread_.index();
    const int64_t open = static_cast<int64_t>(head_) * kChunkRows * dim_ + e;
    for (int b = 0; b < rows.first; ++b) {
      chunk_.PutKey(b, Widen(thread_.Load(sequence_.open_k + open + b * dim_)));
      chunk_.PutValue(b, Widen(thread_.Load(sequence_.open_v + open + b * dim_)));
    }
    for (int r = 0; r < rows.count; ++r) {
      const int b = rows.first + r;
      const Act k = thread_.Load(Qkv(first_row + r, 1) + e);
      const Act v = thread_.Load(Qkv(first_row + r, 2) + e);
      thread_.Store(sequence_.open_k + open + b * dim_, k);
      thread_.Store(sequence_.open_v + open + b * dim_, v);
      chunk_.PutKey(b, Widen(k));
      chunk_.PutValue(b, Widen(v));
    }
  }

  // Rows [first, first + count) of the chunk, the first of which is row `row` of the step.
  M1_DEVICE void AttendRows(int first, int count, int row) {
    const int e = thread_.index();
    for (int r = 0; r < kRows; ++r) {
      chunk_.PutQuery(r, r < count ? Widen(thread_.Load(Qkv(row + r, 0) + e)) : 0.0f);
    }
    thread_.Barrier();
    chunk_.WeighKeys(first, count);
    float inter[kRows];
    ReadState(inter);
    thread_.Barrier();
    for (int r = 0; r < count; ++r) {
      const int i = first + r;
      const float decay = chunk_.DecayOver(i + 1);
      const int64_t out = (static_cast<int64_t>(row + r) * args_.heads + head_) * dim_ + e;
      thread_.Store(args_.out + out, fmaf(decay, InterOf(inter, r), chunk_.AddValues(r, i)));
    }
    thread_.Barrier();  // q and weights are free again
  }

  // Registers have no address: picks one without indexing.
  M1_DEVICE static float InterOf(const float (&inter)[kRows], int row) {
    float value = inter[0];
    M1_UNROLL
    for (int r = 1; r < kRows; ++r) value = r == row ? inter[r] : value;
    return value;
  }

  // inter[r] = sum over c of q_r[c] S[c, e], ascending; the state is read once for all rows.
  M1_DEVICE void ReadState(float (&inter)[kRows]) {
    M1_UNROLL
    for (int r = 0; r < kRows; ++r) inter[r] = 0.0f;
    for (int c = 0; c < dim_; c += 4) {
      float s[4];
      M1_UNROLL
      for (int i = 0; i < 4; ++i) s[i] = thread_.Load(state_ + static_cast<int64_t>(c + i) * dim_);
      M1_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Float4 q = chunk_.Query4(r, c);
        M1_UNROLL
        for (int i = 0; i < 4; ++i) inter[r] = fmaf(q.value[i], s[i], inter[r]);
      }
    }
  }

  // S[c, e] = fma(S[c, e], exp(-32 s), sum over b of act(k_b[c] exp(-s (31 - b))) v_b[e]).
  M1_DEVICE void Fold() {
    chunk_.DecayKeys();
    thread_.Barrier();
    const float chunk_decay = chunk_.DecayOver(kChunkRows);
    for (int c = 0; c < dim_; c += 4) {
      float fold[4];
      chunk_.FoldKeys(c, fold);
      M1_UNROLL
      for (int i = 0; i < 4; ++i) {
        float* s = state_ + static_cast<int64_t>(c + i) * dim_;
        thread_.Store(s, fmaf(thread_.Load(s), chunk_decay, fold[i]));
      }
    }
  }

  Thread& thread_;
  const LightningArgs<Act>& args_;
  const LightningMemory<Act> sequence_;
  const int head_;
  const int dim_;
  LightningChunk<Act, kRows, Thread> chunk_;
  float* const state_;  // column e of the head's state
};

template <typename Act, int kRows, typename Thread>
M1_DEVICE void LightningKernel(Thread& thread, const LightningArgs<Act>& args) {
  LightningBody<Act, kRows, Thread>(thread, args).Run();
}

}  // namespace m1::cuda
