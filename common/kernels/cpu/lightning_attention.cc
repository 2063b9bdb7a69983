// The rows that a step has in one chunk of 32 are a few small products per head: q k^T in dot form,
// w v and q S in column form, and the fold when the chunk is full.
#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/column_form.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/matmul.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

static_assert(kChunkRows == 32 && kChunkRows <= kMaxBlockRows);

// Columns of k that are folded at once.
constexpr int64_t kFoldRows = 16;

// exp(-s d) of one head.
struct Decays {
  // [d], d in [0, 32]
  float by_distance[48];
  // [31 - d], so that row i finds exp(-s (i - b)) at [31 - i + b]; zeros behind.
  float by_key[2 * kChunkRows];

  explicit Decays(float s) {
    for (int i = 0; i < 48; ++i) by_distance[i] = -s * static_cast<float>(i);
    for (int i = 0; i < 48; i += 16) Store(Exp(Load(by_distance + i)), by_distance + i);
    for (int i = 0; i < kChunkRows; ++i) {
      by_key[i] = by_distance[kChunkRows - 1 - i];
      by_key[kChunkRows + i] = 0.0f;
    }
  }
};

// What one head works in; rows count from the first of the step in the chunk.
template <typename T>
struct Scratch {
  T q[kChunkRows * kMaxHeadDim];               // [rows, head_dim]
  float wide_q[kChunkRows * kMaxHeadDim];      // the same, widened
  float scores[kChunkRows * kChunkRows];       // [rows, keys]
  T weights[kChunkRows * kChunkRows];          // [rows, keys]
  T decayed_k[kChunkRows * kMaxHeadDim];       // [keys, head_dim]
  uint16_t k_pairs[kChunkRows * kMaxHeadDim];  // decayed_k, if bf16
  uint16_t v_pairs[kChunkRows * kMaxHeadDim];  // the open chunk's v, if bf16
  float inter[kChunkRows * kMaxHeadDim];       // [rows, head_dim]
  float intra[kChunkRows * kMaxHeadDim];       // [rows, head_dim]
  float fold[kFoldRows * kMaxHeadDim];         // [columns of k, head_dim]
};

void Clear(float* to, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) Store(Zero(), to + i);
}

template <typename T>
class HeadRun {
 public:
  HeadRun(const LightningAttentionArgs& args, const LightningPart& part, Scratch<T>& scratch)
      : args_(args),
        part_(part),
        dim_(args.head_dim),
        decays_(args.decays[part.head]),
        open_k_(static_cast<T*>(part.open_k)),
        open_v_(static_cast<T*>(part.open_v)),
        scratch_(scratch) {}

  void Run() {
    for (int64_t done = 0; done < part_.num_rows;) {
      const int64_t first = (part_.first_position + done) % kChunkRows;
      const int64_t left = part_.num_rows - done;
      const int64_t rows = left < kChunkRows - first ? left : kChunkRows - first;
      TakeRows(part_.row_begin + done, first, rows);
      Attend(part_.row_begin + done, first, rows);
      if (first + rows == kChunkRows) Fold();
      done += rows;
    }
  }

 private:
  // k and v of the rows to the open chunk, from its row `first` on; q to scratch.
  void TakeRows(int64_t row_begin, int64_t first, int64_t rows) {
    const auto bytes = static_cast<unsigned long>(dim_) * sizeof(T);
    for (int64_t r = 0; r < rows; ++r) {
      const T* qkv = static_cast<const T*>(args_.qkv.data) +
                     ((row_begin + r) * args_.heads + part_.head) * 3 * dim_;
      __builtin_memcpy(scratch_.q + r * dim_, qkv, bytes);
      __builtin_memcpy(open_k_ + (first + r) * dim_, qkv + dim_, bytes);
      __builtin_memcpy(open_v_ + (first + r) * dim_, qkv + 2 * dim_, bytes);
    }
    for (int64_t i = 0; i < rows * dim_; i += 16) Store(Load(scratch_.q + i), scratch_.wide_q + i);
    if constexpr (kIsBf16) {
      InterleavePairs(open_v_, (first + rows + 1) / 2, dim_, scratch_.v_pairs);
    }
  }

  void Attend(int64_t row_begin, int64_t first, int64_t rows) {
    MultiplyBlock({scratch_.q, kIsBf16}, {open_k_, kIsBf16}, dim_, {0, rows}, {0, first + rows},
                  scratch_.scores, kChunkRows);
    int64_t num_keys[kChunkRows];
    int64_t num_columns[kChunkRows];
    for (int64_t r = 0; r < rows; ++r) {
      num_keys[r] = first + r + 1;
      num_columns[r] = dim_;
      const float* decay = decays_.by_key + (kChunkRows - num_keys[r]);
      for (int64_t b = 0; b < num_keys[r]; b += 16) {
        const F32x16 score = Load(scratch_.scores + r * kChunkRows + b);
        Store(Mul(Load(decay + b), score), scratch_.weights + r * kChunkRows + b);
      }
    }
    Clear(scratch_.inter, rows * dim_);
    AddColumnForm<float>({scratch_.wide_q, dim_, 1, part_.state, dim_, dim_, scratch_.inter}, rows,
                         num_columns);
    Clear(scratch_.intra, rows * dim_);
    AddColumnForm<T>({scratch_.weights, kChunkRows, kKeysPerStep<T>, Values(), ValueStride(), dim_,
                      scratch_.intra},
                     rows, num_keys);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = args_.out + ((row_begin + r) * args_.heads + part_.head) * dim_;
      const F32x16 decay = Set(decays_.by_distance[num_keys[r]]);
      for (int64_t e = 0; e < dim_; e += 16) {
        const F32x16 inter = Load(scratch_.inter + r * dim_ + e);
        Store(Fma(decay, inter, Load(scratch_.intra + r * dim_ + e)), out + e);
      }
    }
  }

  // The full open chunk into the state.
  void Fold() {
    for (int64_t b = 0; b < kChunkRows; ++b) {
      const F32x16 decay = Set(decays_.by_key[b]);
      for (int64_t c = b * dim_; c < (b + 1) * dim_; c += 16) {
        Store(Mul(Load(open_k_ + c), decay), scratch_.decayed_k + c);
      }
    }
    const T* k = scratch_.decayed_k;
    if constexpr (kIsBf16) {
      InterleavePairs(scratch_.decayed_k, kChunkRows / 2, dim_, scratch_.k_pairs);
      k = scratch_.k_pairs;
    }
    int64_t num_keys[kFoldRows];
    for (int64_t& keys : num_keys) keys = kChunkRows;
    const F32x16 decay = Set(decays_.by_distance[kChunkRows]);
    for (int64_t c = 0; c < dim_; c += kFoldRows) {
      Clear(scratch_.fold, kFoldRows * dim_);
      AddColumnForm<T>({k + c * kKeysPerStep<T>, kKeysPerStep<T>, ValueStride(), Values(),
                        ValueStride(), dim_, scratch_.fold},
                       kFoldRows, num_keys);
      float* state = part_.state + c * dim_;
      for (int64_t i = 0; i < kFoldRows * dim_; i += 16) {
        Store(Fma(Load(state + i), decay, Load(scratch_.fold + i)), state + i);
      }
    }
  }

  // The open chunk's v as the column form wants it.
  const T* Values() const {
    if constexpr (kIsBf16) {
      return scratch_.v_pairs;
    } else {
      return open_v_;
    }
  }
  int64_t ValueStride() const { return kKeysPerStep<T> * dim_; }

  static constexpr bool kIsBf16 = sizeof(T) == sizeof(uint16_t);
  const LightningAttentionArgs& args_;
  const LightningPart& part_;
  const int64_t dim_;
  const Decays decays_;
  T* const open_k_;
  T* const open_v_;
  Scratch<T>& scratch_;
};

template <typename T>
void RunParts(const LightningAttentionArgs& args, Range parts) {
  Scratch<T> scratch;
  for (int64_t i = parts.begin; i < parts.end; ++i) HeadRun<T>(args, args.parts[i], scratch).Run();
}

}  // namespace

void LightningAttention(const LightningAttentionArgs& args, Range parts) {
  if (args.qkv.is_bf16) {
    RunParts<uint16_t>(args, parts);
  } else {
    RunParts<float>(args, parts);
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
