// Attention, and the operations on rows of the vocabulary.
#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"

#include "tools/bench/op_bench.h"

namespace m1 {
namespace {

constexpr auto kBf16 = DType::kBf16;
constexpr auto kF32 = DType::kF32;

double Product(int64_t a, int64_t b, int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

}  // namespace

void OpBench::RunAttention(int64_t rows) {
  Rotary(rows);
  AppendKv(rows);
  Softmax(rows);
  Lightning(rows);
}

void OpBench::Rotary(int64_t rows) {
  const int64_t heads = config_.num_heads;
  const int64_t head_dim = config_.head_dim;
  const int64_t half = config_.rotary_dim / 2;
  const Tensor x = Filled(kF32, {rows, heads, head_dim});
  const Tensor cos = Filled(kF32, {rows, half});
  const Tensor sin = Filled(kF32, {rows, half});
  Tensor out(kBf16, {rows, heads, head_dim});
  Report("Rotary", absl::StrCat(rows, " x ", heads, " heads"),
         {.cached_bytes = 4 * Product(rows, heads, head_dim),
          .fp32_flops = 6 * Product(rows, heads, half)},
         [&] { return backend_->Rotary(x.view(), cos.view(), sin.view(), out.view()); });
}

void OpBench::AppendKv(int64_t rows) {
  const int64_t heads = config_.num_kv_heads;
  const int64_t head_dim = config_.head_dim;
  const Tensor k = Filled(kBf16, {rows, heads, head_dim});
  const Tensor v = Filled(kBf16, {rows, heads, head_dim});
  const std::vector<SequenceRows> parts = Sequences(rows, 0);
  const int64_t blocks_each = (parts[0].num_rows + kKvBlockTokens - 1) / kKvBlockTokens;
  const auto num_blocks = static_cast<int64_t>(parts.size()) * blocks_each;
  std::vector<int32_t> blocks(static_cast<size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<PagedSequence> sequences;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto each = static_cast<size_t>(blocks_each);
    sequences.push_back({parts[i], std::span<const int32_t>(blocks).subspan(i * each, each)});
  }
  Tensor pool_k(kBf16, {num_blocks, heads, kKvBlockTokens, head_dim});
  Tensor pool_v(kBf16, {num_blocks, heads, kKvBlockTokens, head_dim});
  Report("AppendKv", absl::StrCat(rows, " x ", heads, " heads"),
         {.cached_bytes = 4 * Product(rows, heads, head_dim)}, [&] {
           return backend_->AppendKv(k.view(), v.view(), sequences, {pool_k.view(), pool_v.view()});
         });
}

void OpBench::Softmax(int64_t rows) {
  const int64_t heads = config_.num_heads;
  const int64_t kv_heads = config_.num_kv_heads;
  const int64_t head_dim = config_.head_dim;
  const std::vector<SequenceRows> parts = Sequences(rows, options_.context);
  const int64_t tokens = options_.context + parts[0].num_rows;
  const int64_t blocks_each = (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  const auto num_blocks = static_cast<int64_t>(parts.size()) * blocks_each;
  std::vector<int32_t> blocks(static_cast<size_t>(num_blocks));
  std::iota(blocks.rbegin(), blocks.rend(), 0);
  std::vector<PagedSequence> sequences;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto each = static_cast<size_t>(blocks_each);
    sequences.push_back({parts[i], std::span<const int32_t>(blocks).subspan(i * each, each)});
  }
  const Tensor q = Filled(kBf16, {rows, heads, head_dim});
  Tensor out(kBf16, {rows, heads, head_dim});
  const double keys =
      static_cast<double>(options_.context) + static_cast<double>(parts[0].num_rows + 1) / 2;
  const OpWork work{.memory_bytes = static_cast<double>(parts.size()) * 2 * 2 *
                                    Product(tokens, kv_heads, head_dim),
                    .cached_bytes = 2 * Product(rows, heads, head_dim),
                    .pair_flops = 4 * keys * Product(rows, heads, head_dim)};
  const Shape shape{num_blocks, kv_heads, kKvBlockTokens, head_dim};
  Report(
      "SoftmaxAttention",
      absl::StrCat(rows, " rows of ", parts.size(), " at ", options_.context, ", ", heads,
                   " heads"),
      work, [&] {
        const TensorView k = Cold(kBf16, shape);
        return backend_->SoftmaxAttention(q.view(), sequences, {k, Cold(kBf16, shape)}, out.view());
      });
}

void OpBench::Lightning(int64_t rows) {
  const int64_t heads = config_.num_heads;
  const int64_t head_dim = config_.head_dim;
  const int64_t width = heads * head_dim;
  const std::vector<SequenceRows> parts = Sequences(rows, rows > 64 ? 0 : kLightningChunk / 2);
  const Tensor qkv = Filled(kBf16, {rows, heads, 3, head_dim});
  const Tensor decays = Filled(kF32, {heads});
  Tensor out(kF32, {rows, heads, head_dim});
  const bool folds = parts[0].num_rows > 1;
  // Of each sequence: the state, written when folded, and half an open chunk.
  const double memory =
      (folds ? 2 : 1) * 4 * Product(width, head_dim) + 2 * 2 * Product(width, kLightningChunk / 2);
  const auto chunk_keys = static_cast<double>(kLightningChunk + 1) / 2;
  OpWork work{.memory_bytes = static_cast<double>(parts.size()) * memory,
              .cached_bytes = 6 * Product(rows, width),
              .pair_flops = 4 * chunk_keys * Product(rows, width),
              .fp32_flops = 2 * Product(rows, width, head_dim)};
  if (folds) work.pair_flops += 2 * Product(rows, width, head_dim);
  // States change and are of their own, so that weights stay what they are.
  const int64_t state_floats = width * head_dim;
  const int64_t copies = std::max<int64_t>(static_cast<int64_t>(parts.size()),
                                           (int64_t{128} << 20) / (4 * state_floats));
  Tensor states = Filled(kF32, {copies, heads, head_dim, head_dim});
  Tensor chunks = Filled(kBf16, {copies, 2, heads, kLightningChunk, head_dim});
  int64_t next = 0;
  Report("LightningAttention", absl::StrCat(rows, " rows of ", parts.size(), ", ", heads, " heads"),
         work, [&] {
           std::vector<LightningSequence> sequences;
           for (const SequenceRows& part : parts) {
             const TensorView open = chunks.view()[next];
             sequences.push_back({part, states.view()[next], open[0], open[1]});
             next = (next + 1) % copies;
           }
           return backend_->LightningAttention(qkv.view(), decays.view(), sequences, out.view());
         });
}

void OpBench::RunVocab(int64_t rows) {
  if (rows > 64) return;
  const int64_t vocab = config_.vocab_size;
  Tensor logits(kF32, {rows, vocab});
  for (int64_t i = 0; i < rows * vocab; ++i) {
    logits.data_as<float>()[i] = static_cast<float>(i * 7919 % 10007) * 1e-3F;  // 0..10, no order
  }
  const std::vector<float> ones(static_cast<size_t>(rows), 1.0F);
  std::vector<float> lse(static_cast<size_t>(rows));
  const std::string size = absl::StrCat(rows, " x ", vocab);
  const OpWork work{.cached_bytes = Product(rows, vocab, 4)};
  Report("LogSumExp", size, work, [&] { return backend_->LogSumExp(logits.view(), ones, lse); });
  std::vector<TokenDraw> draws;
  std::vector<ScoreRequest> requests;
  for (int64_t row = 0; row < rows; ++row) {
    draws.push_back({.row = row, .top_p = 0.95F, .uniform = 0.5});
    requests.push_back({.row = row, .id = static_cast<int32_t>(row), .lse = 10.0F});
  }
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  std::vector<TokenScore> scores(static_cast<size_t>(rows));
  Report("DrawTokens", absl::StrCat(size, ", top_p 0.95"), work,
         [&] { return backend_->DrawTokens(logits.view(), draws, std::span<int32_t>(ids)); });
  Report("ScoreTokens", size, work, [&] {
    return backend_->ScoreTokens(logits.view(), requests, std::span<TokenScore>(scores));
  });
}

}  // namespace m1
