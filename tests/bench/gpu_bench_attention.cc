// Attention.
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "tests/bench/gpu_bench.h"

namespace m1 {
namespace {

constexpr auto kBf16 = DType::kBf16;
constexpr auto kF32 = DType::kF32;

double Product(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

// Sequences, each with blocks of its own.
class PagedSequences {
 public:
  explicit PagedSequences(const std::vector<SequenceRows>& rows) {
    const int64_t last = rows[0].first_position + rows[0].num_rows - 1;
    const auto each = static_cast<size_t>(last / kKvBlockTokens + 1);
    blocks_.resize(each * rows.size());
    std::iota(blocks_.rbegin(), blocks_.rend(), 0);
    for (size_t i = 0; i < rows.size(); ++i) {
      sequences_.push_back({rows[i], std::span<const int32_t>(blocks_).subspan(i * each, each)});
    }
  }
  PagedSequences(const PagedSequences&) = delete;
  PagedSequences& operator=(const PagedSequences&) = delete;

  const std::vector<PagedSequence>& sequences() const { return sequences_; }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  std::vector<int32_t> blocks_;
  std::vector<PagedSequence> sequences_;
};

}  // namespace

void GpuBench::RunAttention(int64_t rows) {
  Rotary(rows);
  AppendKv(rows);
  Softmax(rows);
  Lightning(rows);
}

void GpuBench::Rotary(int64_t rows) {
  const Shape shape{rows, config_.num_heads, config_.head_dim};
  const Shape table{rows, config_.rotary_dim / 2};
  const auto elements = static_cast<double>(shape.num_elements());
  Report("Rotary", absl::StrCat(rows, " x ", config_.num_heads, " heads"),
         {.bytes = 6 * elements + 8 * static_cast<double>(table.num_elements())}, [&] {
           return backend_->Rotary(weights_.Next(kF32, shape), weights_.Next(kF32, table),
                                   weights_.Next(kF32, table), results_.Next(kBf16, shape));
         });
}

void GpuBench::AppendKv(int64_t rows) {
  const Shape shape{rows, config_.num_kv_heads, config_.head_dim};
  const PagedSequences sequences(Sequences(rows, 0));
  const Shape pool{sequences.num_blocks(), config_.num_kv_heads, kKvBlockTokens, config_.head_dim};
  Report("AppendKv", absl::StrCat(rows, " x ", config_.num_kv_heads, " heads"),
         {.bytes = 8 * static_cast<double>(shape.num_elements())}, [&] {
           const TensorView k = results_.Next(kBf16, pool);
           return backend_->AppendKv(weights_.Next(kBf16, shape), weights_.Next(kBf16, shape),
                                     sequences.sequences(), {k, results_.Next(kBf16, pool)});
         });
}

void GpuBench::Softmax(int64_t rows) {
  const int64_t heads = config_.num_heads;
  const int64_t kv_heads = config_.num_kv_heads;
  const int64_t head_dim = config_.head_dim;
  const std::vector<SequenceRows> parts = Sequences(rows, IsDecode(rows) ? options_.context : 0);
  const PagedSequences sequences(parts);
  const Shape shape{rows, heads, head_dim};
  const Shape pool{sequences.num_blocks(), kv_heads, kKvBlockTokens, head_dim};
  const auto before = static_cast<double>(parts[0].first_position);
  const auto each = static_cast<double>(parts[0].num_rows);
  const GpuWork work{.bytes = static_cast<double>(parts.size()) * (before + each) * 4 *
                                  Product(kv_heads, head_dim) +
                              4 * Product(rows, heads, head_dim),
                     .operations = 4 * (before + (each + 1) / 2) * Product(rows, heads, head_dim)};
  Report("SoftmaxAttention",
         absl::StrCat(rows, " rows of ", parts.size(), " at ", parts[0].first_position), work, [&] {
           const TensorView k = weights_.Next(kBf16, pool);
           return backend_->SoftmaxAttention(weights_.Next(kBf16, shape), sequences.sequences(),
                                             {k, weights_.Next(kBf16, pool)},
                                             results_.Next(kBf16, shape));
         });
}

// Decode in the middle of a chunk, where no state is written.
void GpuBench::Lightning(int64_t rows) {
  const int64_t heads = config_.num_heads;
  const int64_t head_dim = config_.head_dim;
  const std::vector<SequenceRows> parts = Sequences(rows, IsDecode(rows) ? kLightningChunk / 2 : 0);
  const bool folds = parts[0].num_rows > 1;
  const double width = Product(heads, head_dim);
  const double states = static_cast<double>(parts.size()) * width *
                        ((folds ? 8.0 : 4.0) * static_cast<double>(head_dim) +
                         4.0 * static_cast<double>(kLightningChunk) / 2);
  const double per_element = (folds ? 4.0 : 2.0) * static_cast<double>(head_dim) +
                             4.0 * static_cast<double>(kLightningChunk + 1) / 2;
  const GpuWork work{.bytes = states + 10 * static_cast<double>(rows) * width,
                     .operations = per_element * static_cast<double>(rows) * width,
                     .kind = cuda::PeakKind::kFloat};
  const std::vector<float> decays(static_cast<size_t>(heads), 0.01F);
  Tensor gpu_decays = backend_->NewTensor(kF32, {heads});
  M1_CHECK(backend_->Upload(ConstTensorView(decays.data(), kF32, {heads}), gpu_decays.view()).ok());
  Report("LightningAttention", absl::StrCat(rows, " rows of ", parts.size()), work, [&] {
    std::vector<LightningSequence> sequences;
    for (const SequenceRows& part : parts) {
      const Shape chunk{heads, kLightningChunk, head_dim};
      const TensorView state = results_.Next(kF32, {heads, head_dim, head_dim});
      const TensorView k = results_.Next(kBf16, chunk);
      sequences.push_back({part, state, k, results_.Next(kBf16, chunk)});
    }
    return backend_->LightningAttention(weights_.Next(kBf16, {rows, heads, 3, head_dim}),
                                        gpu_decays.view(), sequences,
                                        results_.Next(kF32, {rows, heads, head_dim}));
  });
}

}  // namespace m1
