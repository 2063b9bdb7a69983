#include "tests/common/kernels/cuda/softmax_testing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

static_assert(kKeyBlock == kKvBlockTokens);
static_assert(kSegmentKeys == kSoftmaxSegmentKeys);

// Scores of some size, so that the largest moves and weights spread over many powers of two.
constexpr float kQueryScale = 6.0f;

// Of one row and head, over one segment or those merged so far.
struct ModelPartial {
  explicit ModelPartial(size_t head_dim) : o(head_dim, 0.0f) {}
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  std::vector<float> o;
};

// Of the 64 weights; the lanes of backend.h.
float SumOfWeights(const std::array<float, kKeyBlock>& p) {
  std::array<float, 16> lanes{};
  for (size_t b = 0; b < p.size(); ++b) lanes[b % 16] += p[b];
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

float ModelScore(const Bf16* q, const Bf16* k, int head_dim) {
  float sum = 0.0f;
  for (int e = 0; e < head_dim; e += 16) {
    sum =
        MmaElement(sum, std::span<const Bf16, 16>(k + e, 16), std::span<const Bf16, 16>(q + e, 16));
  }
  return sum;
}

// One row and head, with the keys and values that it sees.
struct ModelQuery {
  const Bf16* q;
  std::vector<const Bf16*> keys;
  std::vector<const Bf16*> values;
  int head_dim;
};

// o * c, then keys in steps of 16; masked ones have weight 0 and value 0.
float AddModelValues(float o, const ModelQuery& query, size_t first, size_t e,
                     const std::array<Bf16, kKeyBlock>& weights) {
  std::array<Bf16, kKeyBlock> v{};
  for (size_t b = 0; b < v.size() && first + b < query.values.size(); ++b) {
    v[b] = query.values[first + b][e];
  }
  for (size_t step = 0; step < kKeyBlock; step += 16) {
    o = MmaElement(o, std::span<const Bf16, 16>(&v[step], 16),
                   std::span<const Bf16, 16>(&weights[step], 16));
  }
  return o;
}

void AddModelBlock(const ModelQuery& query, size_t first, ModelPartial& partial) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(query.head_dim));
  const size_t visible = std::min<size_t>(kKeyBlock, query.keys.size() - first);
  std::array<float, kKeyBlock> p{};
  float m = partial.m;
  for (size_t b = 0; b < visible; ++b) {
    p[b] = scale * ModelScore(query.q, query.keys[first + b], query.head_dim);
    m = std::max(m, p[b]);
  }
  std::array<Bf16, kKeyBlock> weights{};
  for (size_t b = 0; b < visible; ++b) {
    p[b] = ExactExp(p[b] - m);
    weights[b] = FloatToBf16(p[b]);
  }
  const float c = std::isinf(partial.m) ? 0.0f : ExactExp(partial.m - m);
  partial.m = m;
  partial.l = std::fma(partial.l, c, SumOfWeights(p));
  for (size_t e = 0; e < partial.o.size(); ++e) {
    partial.o[e] = AddModelValues(partial.o[e] * c, query, first, e, weights);
  }
}

void MergeModel(const ModelPartial& segment, ModelPartial& total) {
  const float m = std::max(segment.m, total.m);
  const float a = ExactExp(total.m - m);
  const float b = ExactExp(segment.m - m);
  total.m = m;
  total.l = std::fma(segment.l, b, total.l * a);
  for (size_t e = 0; e < total.o.size(); ++e) {
    total.o[e] = std::fma(segment.o[e], b, total.o[e] * a);
  }
}

// Of the segment that starts at key `begin`.
ModelPartial ModelSegment(const ModelQuery& query, size_t begin) {
  ModelPartial segment(static_cast<size_t>(query.head_dim));
  const size_t end = std::min<size_t>(begin + kSegmentKeys, query.keys.size());
  for (size_t first = begin; first < end; first += kKeyBlock) AddModelBlock(query, first, segment);
  for (float& o : segment.o) o = o + 0.0f;  // -0 becomes +0
  return segment;
}

}  // namespace

SoftmaxCase::SoftmaxCase(const SoftmaxHeads& heads, std::vector<SequenceRows> sequences)
    : heads_(heads), rows_(std::move(sequences)) {
  RandomTensors random(11);
  int64_t num_rows = 1;
  int64_t num_blocks = 1;
  for (SequenceRows& sequence : rows_) {
    sequence.row_begin = num_rows;
    num_rows += sequence.num_rows;
    tables_.emplace_back();
    const int64_t end = sequence.first_position + sequence.num_rows;
    for (int64_t key = 0; key < end; key += kKeyBlock) {
      tables_.back().push_back(static_cast<int32_t>(num_blocks++));
    }
  }
  std::vector<int32_t> order(static_cast<size_t>(num_blocks));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 1; i < order.size(); ++i) {
    std::swap(order[i], order[static_cast<size_t>(random.Integer(0, static_cast<int64_t>(i)))]);
  }
  for (std::vector<int32_t>& table : tables_) {
    for (int32_t& block : table) block = order[static_cast<size_t>(block)];
  }
  q_ = random.Make(DType::kBf16, {num_rows, heads_.heads, heads_.head_dim});
  for (Bf16& q : Elements<Bf16>(q_)) q = FloatToBf16(kQueryScale * Bf16ToFloat(q));
  std::memset(q_.view().data(), 0xff, Width() * sizeof(Bf16));
  const Shape pool{num_blocks, heads_.kv_heads, kKeyBlock, heads_.head_dim};
  pool_k_ = Poisoned(DType::kBf16, pool);
  pool_v_ = Poisoned(DType::kBf16, pool);
  for (size_t s = 0; s < rows_.size(); ++s) {
    const int64_t end = rows_[s].first_position + rows_[s].num_rows;
    const Tensor k = random.Make(DType::kBf16, {end, heads_.kv_heads, heads_.head_dim});
    const Tensor v = random.Make(DType::kBf16, {end, heads_.kv_heads, heads_.head_dim});
    const Bf16* from_k = k.view().data_as<Bf16>();
    const Bf16* from_v = v.view().data_as<Bf16>();
    for (int64_t p = 0; p < end; ++p) {
      for (int64_t head = 0; head < heads_.kv_heads; ++head) {
        std::copy_n(from_k, heads_.head_dim, Key(s, p, head));
        std::copy_n(from_v, heads_.head_dim, Value(s, p, head));
        from_k += heads_.head_dim;
        from_v += heads_.head_dim;
      }
    }
  }
}

Bf16* SoftmaxCase::At(Tensor& pool, size_t sequence, int64_t position, int64_t kv_head) {
  const int64_t block = tables_[sequence][static_cast<size_t>(position / kKeyBlock)];
  const int64_t row = (block * heads_.kv_heads + kv_head) * kKeyBlock + position % kKeyBlock;
  return pool.data_as<Bf16>() + row * heads_.head_dim;
}

std::vector<SoftmaxSequence> SoftmaxCase::Sequences() const {
  std::vector<SoftmaxSequence> sequences;
  int64_t slots = 0;
  for (size_t s = 0; s < rows_.size(); ++s) {
    sequences.push_back({tables_[s].data(), static_cast<int32_t>(rows_[s].first_position),
                         static_cast<int32_t>(rows_[s].row_begin),
                         static_cast<int32_t>(rows_[s].num_rows), static_cast<int32_t>(slots)});
    slots += sequences.back().num_slots();
  }
  return sequences;
}

SoftmaxArgs SoftmaxCase::Arguments(const std::vector<SoftmaxSequence>& sequences, Tensor& out) {
  SoftmaxArgs args{};
  args.q = q_.data_as<Bf16>();
  args.pool_k = pool_k_.data_as<Bf16>();
  args.pool_v = pool_v_.data_as<Bf16>();
  args.sequences = sequences.data();
  args.out = out.data_as<Bf16>();
  args.scale = 1.0f / std::sqrt(static_cast<float>(heads_.head_dim));
  args.num_sequences = static_cast<int32_t>(sequences.size());
  args.heads = heads_.heads;
  args.kv_heads = heads_.kv_heads;
  args.head_dim = heads_.head_dim;
  for (const SoftmaxSequence& sequence : sequences) {
    args.max_rows = std::max(args.max_rows, sequence.num_rows);
    args.max_keys = std::max(args.max_keys, sequence.num_keys());
  }
  return args;
}

SimulatedMemory SoftmaxCase::Memory(const std::vector<SoftmaxSequence>& sequences, Tensor& out) {
  SimulatedMemory memory;
  memory.AddInput(Elements<Bf16>(std::as_const(q_)));
  memory.AddInput(Elements<Bf16>(std::as_const(pool_k_)));
  memory.AddInput(Elements<Bf16>(std::as_const(pool_v_)));
  memory.AddInput(std::span<const SoftmaxSequence>(sequences));
  for (const std::vector<int32_t>& table : tables_) {
    memory.AddInput(std::span<const int32_t>(table));
  }
  memory.AddOutput(Elements<Bf16>(out));
  return memory;
}

void SoftmaxCase::ExpectRowsWritten(const SimulatedMemory& memory, const Tensor& out) const {
  const size_t width = Width();
  std::vector<int> times(static_cast<size_t>(q_.shape()[0]));
  for (const SequenceRows& rows : rows_) {
    for (int64_t r = 0; r < rows.num_rows; ++r) ++times[static_cast<size_t>(rows.row_begin + r)];
  }
  for (size_t row = 0; row < times.size(); ++row) {
    ExpectWritten(memory, Elements<Bf16>(out).subspan(row * width, width), times[row]);
  }
}

int64_t SoftmaxCase::CountSlots() const {
  const SoftmaxSequence last = Sequences().back();
  return last.slot_begin + last.num_slots();
}

std::vector<float> SoftmaxCase::NoPartials() const {
  const int64_t bytes = SoftmaxScratchBytes(CountSlots(), heads_.heads, heads_.head_dim);
  return std::vector<float>(static_cast<size_t>(bytes) / sizeof(float),
                            std::numeric_limits<float>::quiet_NaN());
}

SoftmaxPartials SoftmaxCase::PartialsIn(std::vector<float>& scratch) const {
  return SoftmaxPartialsIn(scratch.data(), CountSlots(), heads_.heads);
}

Tensor SoftmaxCase::RunFew(std::vector<float>* partials) {
  const std::vector<SoftmaxSequence> sequences = Sequences();
  Tensor out = Poisoned(DType::kBf16, q_.shape());
  std::vector<float> scratch = NoPartials();
  SoftmaxArgs args = Arguments(sequences, out);
  args.partials = PartialsIn(scratch);
  SimulatedMemory memory = Memory(sequences, out);
  memory.AddOutput(std::span<float>(scratch));
  ForSoftmaxHeadDim(heads_.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxFew<head_dim>;
    RunClean(SoftmaxSegmentsGrid<Shape>(args), memory,
             [&](SimulatedThread& thread) { SoftmaxSegmentsKernel<Shape>(thread, args); });
  });
  RunClean(SoftmaxMergeGrid(args), memory,
           [&](SimulatedThread& thread) { SoftmaxMergeKernel(thread, args); });
  ExpectRowsWritten(memory, out);
  for (const float& element : scratch) {
    EXPECT_LE(memory.CountWrites(&element, sizeof(float)), 1);
  }
  if (partials != nullptr) *partials = std::move(scratch);
  return out;
}

Tensor SoftmaxCase::RunMany() {
  const std::vector<SoftmaxSequence> sequences = Sequences();
  Tensor out = Poisoned(DType::kBf16, q_.shape());
  const SoftmaxArgs args = Arguments(sequences, out);
  SimulatedMemory memory = Memory(sequences, out);
  ForSoftmaxHeadDim(heads_.head_dim, [&]<int head_dim>() {
    using Shape = SoftmaxMany<head_dim>;
    RunClean(SoftmaxPromptGrid<Shape>(args), memory,
             [&](SimulatedThread& thread) { SoftmaxPromptKernel<Shape>(thread, args); });
  });
  ExpectRowsWritten(memory, out);
  return out;
}

Tensor SoftmaxCase::RunReference() {
  std::vector<PagedSequence> sequences;
  for (size_t s = 0; s < rows_.size(); ++s) sequences.push_back({rows_[s], tables_[s]});
  Tensor out = Poisoned(DType::kBf16, q_.shape());
  EXPECT_OK(CreateReferenceBackend()->SoftmaxAttention(
      q_.view(), sequences, {pool_k_.view(), pool_v_.view()}, out.view()));
  return out;
}

void SoftmaxCase::RunModelQuery(const SoftmaxQueries& queries, size_t sequence, int query,
                                const Results& results) {
  const int64_t at = queries.Row(query) * heads_.head_dim;
  ModelQuery model{q_.data_as<Bf16>() + at, {}, {}, heads_.head_dim};
  for (int64_t p = 0; p <= queries.Position(query); ++p) {
    model.keys.push_back(Key(sequence, p, queries.kv_head));
    model.values.push_back(Value(sequence, p, queries.kv_head));
  }
  ModelPartial total(0);
  for (int s = 0; s < NumSegments(queries.Position(query) + 1); ++s) {
    const ModelPartial segment = ModelSegment(model, static_cast<size_t>(s) * kSegmentKeys);
    const int64_t slot = queries.Slot(query, s);
    results.partials.m[slot] = segment.m;
    results.partials.l[slot] = segment.l;
    std::ranges::copy(segment.o, results.partials.o + slot * heads_.head_dim);
    if (s == 0) {
      total = segment;
    } else {
      MergeModel(segment, total);
    }
  }
  std::ranges::transform(total.o, results.out + at,
                         [&](float o) { return FloatToBf16(o / total.l); });
}

Tensor SoftmaxCase::RunModel(std::vector<float>* partials) {
  const ScopedFlushDenormals flush;
  const std::vector<SoftmaxSequence> sequences = Sequences();
  Tensor out = Poisoned(DType::kBf16, q_.shape());
  std::vector<float> scratch = NoPartials();
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int kv_head = 0; kv_head < heads_.kv_heads; ++kv_head) {
      const SoftmaxQueries queries{sequences[s], kv_head, heads_.heads,
                                   heads_.heads / heads_.kv_heads};
      for (int query = 0; query < queries.count(); ++query) {
        RunModelQuery(queries, s, query, {PartialsIn(scratch), out.data_as<Bf16>()});
      }
    }
  }
  if (partials != nullptr) *partials = std::move(scratch);
  return out;
}

Tensor SoftmaxCase::RunInSteps(int step, const std::function<Tensor()>& run) {
  Tensor out = Poisoned(DType::kBf16, q_.shape());
  const SequenceRows all = rows_[0];
  const size_t width = Width();
  const auto bytes = static_cast<size_t>(heads_.head_dim) * sizeof(Bf16);
  const std::vector<Bf16> k(Elements<Bf16>(pool_k_).begin(), Elements<Bf16>(pool_k_).end());
  const std::vector<Bf16> v(Elements<Bf16>(pool_v_).begin(), Elements<Bf16>(pool_v_).end());
  for (int64_t begin = 0; begin < all.num_rows; begin += step) {
    const int64_t count = std::min<int64_t>(step, all.num_rows - begin);
    rows_[0] = {all.row_begin + begin, count, all.first_position + begin};
    for (int64_t p = all.first_position + begin + count; p < all.first_position + all.num_rows;
         ++p) {
      for (int64_t head = 0; head < heads_.kv_heads; ++head) {
        std::memset(Key(0, p, head), 0xff, bytes);
        std::memset(Value(0, p, head), 0xff, bytes);
      }
    }
    const Tensor part = run();
    const size_t from = static_cast<size_t>(all.row_begin + begin) * width;
    std::ranges::copy(Elements<Bf16>(part).subspan(from, static_cast<size_t>(count) * width),
                      Elements<Bf16>(out).subspan(from).begin());
    std::ranges::copy(k, Elements<Bf16>(pool_k_).begin());
    std::ranges::copy(v, Elements<Bf16>(pool_v_).begin());
  }
  rows_[0] = all;
  return out;
}

}  // namespace m1::cuda
