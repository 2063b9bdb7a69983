// All queries of a part (rows and heads that share a kv head) meet each block of 64 keys together:
// one product for the scores, the softmax row by row, one sum in column form.
#include "common/kernels/cpu/act.h"
#include "common/kernels/cpu/column_form.h"
#include "common/kernels/cpu/kernels.h"
#include "common/kernels/cpu/matmul.h"
#include "common/kernels/cpu/simd_math.h"

namespace m1::M1_SIMD_NAMESPACE {
namespace {

static_assert(kMaxQueries <= kMaxBlockRows);

// (m, l, o) of the online softmax, per query: over one segment, or over those merged so far.
struct Partial {
  float m[kMaxQueries];
  float l[kMaxQueries];
  float o[kMaxQueries * kMaxHeadDim];  // [queries, head_dim]

  void Clear(int64_t num_queries, int64_t head_dim) {
    for (int64_t q = 0; q < num_queries; ++q) {
      m[q] = -__builtin_inff();
      l[q] = 0.0f;
    }
    for (int64_t i = 0; i < num_queries * head_dim; i += 16) Store(Zero(), o + i);
  }
};

// What one part works in. Query q is row q / num_heads of the part under head q % num_heads.
template <typename T>
struct Scratch {
  T queries[kMaxQueries * kMaxHeadDim];      // [queries, head_dim]
  float scores[kMaxQueries * kBlockKeys];    // products, then scores
  T weights[kMaxQueries * kBlockKeys];       // the same, rounded
  uint16_t pairs[kBlockKeys * kMaxHeadDim];  // v of the block, if bf16
  int64_t num_keys[kMaxQueries];             // of the block, that each query sees
  Partial total;
  Partial segment;
};

float Lane0(F32x16 a) {
  float lanes[16];
  Store(a, lanes);
  return lanes[0];
}

void Scale(float* row, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += 16) Store(Mul(Load(row + i), Set(factor)), row + i);
}

// exp(old_max - max), and 0 where there was no maximum yet.
float Correction(float old_max, float max) {
  if (old_max == -__builtin_inff()) return 0.0f;
  // As in most blocks; infinity minus itself is NaN.
  if (old_max == max && max != __builtin_inff()) return 1.0f;
  return Lane0(Exp(Set(old_max - max)));
}

// The scores of query q (products so far) to weights; m, l and o follow.
template <typename T>
void SoftmaxRow(Scratch<T>& scratch, int64_t q, const SoftmaxAttentionArgs& args,
                Partial& partial) {
  constexpr int kSteps = kBlockKeys / 16;
  float* row = scratch.scores + q * kBlockKeys;
  const int64_t num_keys = scratch.num_keys[q];
  for (int64_t b = num_keys; b < kBlockKeys; ++b) row[b] = -__builtin_inff();
  const float old_max = partial.m[q];
  F32x16 maxima = Set(old_max);
  F32x16 p[kSteps];
  M1_UNROLL
  for (int i = 0; i < kSteps; ++i) {
    p[i] = Mul(Set(args.scale), Load(row + 16 * i));
    maxima = Select(Less(maxima, p[i]), p[i], maxima);
  }
  const float max = ReduceMax(maxima);
  M1_UNROLL
  for (int i = 0; i < kSteps; ++i) p[i] = Exp(Sub(p[i], Set(max)));
  if (num_keys < kBlockKeys) {  // masked: zero even where the maximum is infinite
    for (int i = 0; i < kSteps; ++i) Store(p[i], row + 16 * i);
    for (int64_t b = num_keys; b < kBlockKeys; ++b) row[b] = 0.0f;
    for (int i = 0; i < kSteps; ++i) p[i] = Load(row + 16 * i);
  }
  F32x16 sums = Zero();
  M1_UNROLL
  for (int i = 0; i < kSteps; ++i) {
    sums = Add(sums, p[i]);
    Store(p[i], scratch.weights + q * kBlockKeys + 16 * i);
  }
  const float c = Correction(old_max, max);
  partial.m[q] = max;
  partial.l[q] = __builtin_fmaf(partial.l[q], c, ReduceTree(sums));
  if (c != 1.0f) Scale(partial.o + q * args.head_dim, args.head_dim, c);
}

// o += weights times v for queries [first, num_queries).
template <typename T>
void AddValues(Scratch<T>& scratch, int64_t first, int64_t num_queries, int64_t head_dim,
               const T* v, Partial& partial) {
  ColumnForm<T> form{.weights = scratch.weights + first * kBlockKeys,
                     .weight_row_stride = kBlockKeys,
                     .weight_step_stride = kKeysPerStep<T>,
                     .values = v,
                     .value_step_stride = kKeysPerStep<T> * head_dim,
                     .width = head_dim,
                     .sums = partial.o + first * head_dim};
  if constexpr (kKeysPerStep<T> == 2) {
    const int64_t keys = scratch.num_keys[num_queries - 1];  // the last query sees most
    InterleavePairs(v, (keys + 1) / 2, head_dim, scratch.pairs);
    form.values = scratch.pairs;
  }
  AddColumnForm(form, num_queries - first, scratch.num_keys + first);
  // The steps that only masked keys have add +0: that matters to -0.
  for (int64_t q = first; q < num_queries; ++q) {
    if (scratch.num_keys[q] > kBlockKeys - kKeysPerStep<T>) continue;
    float* o = partial.o + q * head_dim;
    for (int64_t e = 0; e < head_dim; e += 16) Store(Add(Load(o + e), Zero()), o + e);
  }
}

// The merge of queries [first, num_queries) of a segment into the total.
void Merge(const Partial& segment, int64_t first, int64_t num_queries, int64_t head_dim,
           Partial& total) {
  for (int64_t q = first; q < num_queries; ++q) {
    const float max = segment.m[q] > total.m[q] ? segment.m[q] : total.m[q];
    const F32x16 a = Exp(Set(total.m[q] - max));
    const F32x16 b = Exp(Set(segment.m[q] - max));
    total.m[q] = max;
    total.l[q] = __builtin_fmaf(segment.l[q], Lane0(b), total.l[q] * Lane0(a));
    for (int64_t e = q * head_dim; e < (q + 1) * head_dim; e += 16) {
      Store(Fma(Load(segment.o + e), b, Mul(Load(total.o + e), a)), total.o + e);
    }
  }
}

template <typename T>
class PartRun {
 public:
  PartRun(const SoftmaxAttentionArgs& args, const SoftmaxPart& part, Scratch<T>& scratch)
      : args_(args),
        part_(part),
        num_queries_(part.rows.num_rows * part.num_heads),
        kv_head_(part.head_begin / (args.heads / args.kv_heads)),
        scratch_(scratch) {}

  void Run() {
    const auto* q = static_cast<const T*>(args_.q.data);
    const int64_t row_elements = part_.num_heads * args_.head_dim;
    for (int64_t r = 0; r < part_.rows.num_rows; ++r) {
      __builtin_memcpy(scratch_.queries + r * row_elements, q + RowOffset(r),
                       static_cast<unsigned long>(row_elements) * sizeof(T));
    }
    const int64_t end = part_.rows.first_position + part_.rows.num_rows;
    for (int64_t key = 0; key < end; key += kSegmentKeys) {
      Partial& partial = key == 0 ? scratch_.total : scratch_.segment;
      partial.Clear(num_queries_, args_.head_dim);
      const int64_t segment_end = end < key + kSegmentKeys ? end : key + kSegmentKeys;
      for (int64_t block = key; block < segment_end; block += kBlockKeys) AddBlock(block, partial);
      if (key > 0) Merge(partial, FirstQuery(key), num_queries_, args_.head_dim, scratch_.total);
    }
    StoreOutput();
  }

 private:
  // Of the part's row r under its first head, in q and out.
  int64_t RowOffset(int64_t r) const {
    return ((part_.rows.row_begin + r) * args_.heads + part_.head_begin) * args_.head_dim;
  }
  // The first query that sees `key`.
  int64_t FirstQuery(int64_t key) const {
    const int64_t row = key - part_.rows.first_position;
    return row > 0 ? row * part_.num_heads : 0;
  }

  void AddBlock(int64_t key, Partial& partial) {
    const int64_t block = part_.rows.block_table[key / kBlockKeys];
    const int64_t offset = (block * args_.kv_heads + kv_head_) * kBlockKeys * args_.head_dim;
    const T* k = static_cast<const T*>(args_.pool_k.data) + offset;
    const T* v = static_cast<const T*>(args_.pool_v.data) + offset;
    const int64_t first = FirstQuery(key);
    for (int64_t q = first; q < num_queries_; ++q) {
      const int64_t seen = part_.rows.first_position + q / part_.num_heads + 1 - key;
      scratch_.num_keys[q] = seen < kBlockKeys ? seen : kBlockKeys;
    }
    constexpr bool kIsBf16 = sizeof(T) == sizeof(uint16_t);
    MultiplyBlock({scratch_.queries, kIsBf16}, {k, kIsBf16}, args_.head_dim, {first, num_queries_},
                  {0, scratch_.num_keys[num_queries_ - 1]}, scratch_.scores + first * kBlockKeys,
                  kBlockKeys);
    for (int64_t q = first; q < num_queries_; ++q) SoftmaxRow(scratch_, q, args_, partial);
    AddValues(scratch_, first, num_queries_, args_.head_dim, v, partial);
  }

  void StoreOutput() {
    for (int64_t q = 0; q < num_queries_; ++q) {
      T* out = static_cast<T*>(args_.out.data) + RowOffset(q / part_.num_heads) +
               q % part_.num_heads * args_.head_dim;
      const float* o = scratch_.total.o + q * args_.head_dim;
      for (int64_t e = 0; e < args_.head_dim; e += 16) {
        Store(Div(Load(o + e), Set(scratch_.total.l[q])), out + e);
      }
    }
  }

  const SoftmaxAttentionArgs& args_;
  const SoftmaxPart& part_;
  const int64_t num_queries_;
  const int64_t kv_head_;
  Scratch<T>& scratch_;
};

template <typename T>
void RunParts(const SoftmaxAttentionArgs& args, Range parts) {
  Scratch<T> scratch;
  for (int64_t i = parts.begin; i < parts.end; ++i) PartRun<T>(args, args.parts[i], scratch).Run();
}

}  // namespace

void SoftmaxAttention(const SoftmaxAttentionArgs& args, Range parts) {
  if (args.q.is_bf16) {
    RunParts<uint16_t>(args, parts);
  } else {
    RunParts<float>(args, parts);
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
