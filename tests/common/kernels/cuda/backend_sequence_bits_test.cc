// One answer on a GPU, of operations on sequences: a row alone and in a prompt, in whatever blocks,
// beside whomever, again and again.
#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

class CudaSequenceBitsTest : public CudaBackendTest {
 protected:
  static ModelSizes Sizes() { return SizesUnderTest().back(); }
  static int Repeats() { return OnRealGpu() ? 50 : 2; }
};

// Keys and values of one sequence in a pool, position p in block table[p / 64].
struct Keys {
  Keys(KernelBackend& backend, const ModelSizes& sizes, std::vector<int32_t> blocks)
      : table(std::move(blocks)),
        k(backend.NewTensor(DType::kBf16, PoolShape(sizes))),
        v(backend.NewTensor(DType::kBf16, PoolShape(sizes))) {
    for (size_t i = 0; i < table.size(); ++i) {
      const Shape block{sizes.kv_heads, kKvBlockTokens, sizes.head_dim};
      const Tensor keys = RandomMatrix(DType::kBf16, block, 2 * i, -1);
      const Tensor values = RandomMatrix(DType::kBf16, block, 2 * i + 1, -2);
      EXPECT_OK(backend.Upload(keys.view(), k.view()[table[i]]));
      EXPECT_OK(backend.Upload(values.view(), v.view()[table[i]]));
    }
  }
  Shape PoolShape(const ModelSizes& sizes) const {
    return {*std::max_element(table.begin(), table.end()) + 1, sizes.kv_heads, kKvBlockTokens,
            sizes.head_dim};
  }
  KvPool pool() { return {k.view(), v.view()}; }

  const std::vector<int32_t> table;
  Tensor k, v;
};

std::vector<int32_t> Ascending(int32_t count) {
  std::vector<int32_t> blocks(static_cast<size_t>(count));
  std::iota(blocks.begin(), blocks.end(), 0);
  return blocks;
}

// A prompt goes to the blocks for many queries, a row of it to those for few: over the borders of
// blocks, and of segments of 1024 keys.
TEST_F(CudaSequenceBitsTest, SoftmaxOfAPromptIsThatOfItsRows) {
  const ModelSizes sizes = Sizes();
  const int64_t rows = OnRealGpu() ? 200 : 20;
  const Tensor q = OnGpu(RandomMatrix(DType::kBf16, {rows, sizes.heads, sizes.head_dim}, 1, 0));
  std::vector<int64_t> firsts = {0, 1010};
  if (OnRealGpu()) firsts = {0, 1, 60, 900, 1010, 2000, 9000};
  for (const int64_t first : firsts) {
    const auto num_blocks = static_cast<int32_t>((first + rows - 1) / kKvBlockTokens + 1);
    Keys keys(*gpu_, sizes, Ascending(num_blocks));
    std::vector<int32_t> other_blocks = Ascending(num_blocks);
    std::reverse(other_blocks.begin(), other_blocks.end());
    Keys elsewhere(*gpu_, sizes, other_blocks);
    const auto run = [&](Keys& from, ConstTensorView rows_of_q, int64_t position) {
      Tensor out = Poison(DType::kBf16, rows_of_q.shape());
      const PagedSequence sequence{{0, rows_of_q.dim(0), position}, from.table};
      EXPECT_OK(gpu_->SoftmaxAttention(rows_of_q, {&sequence, 1}, from.pool(), out.view()));
      return OnHost(out);
    };
    const Tensor prompt = run(keys, q.view(), first);
    ASSERT_TRUE(SameBits(run(elsewhere, q.view(), first).view(), prompt.view())) << first;
    for (int64_t row = 0; row < rows; ++row) {
      const Tensor alone = run(keys, q.view().Rows(row, 1), first + row);
      ASSERT_TRUE(SameBits(alone.view(), prompt.view().Rows(row, 1))) << first << " + " << row;
    }
    for (const int64_t part : {3, 5, 9, 17}) {  // both sides of the choice
      const Tensor some = run(keys, q.view().Rows(1, part), first + 1);
      ASSERT_TRUE(SameBits(some.view(), prompt.view().Rows(1, part))) << first << ", " << part;
    }
  }
}

// Long and short sequences in one step.
TEST_F(CudaSequenceBitsTest, SoftmaxOfASequenceIsTheSameBesideOthers) {
  const ModelSizes sizes = Sizes();
  const int32_t num_blocks = OnRealGpu() ? 150 : 17;
  const int64_t last = int64_t{num_blocks} * kKvBlockTokens - 1;
  Keys keys(*gpu_, sizes, Ascending(num_blocks));
  std::vector<PagedSequence> sequences;
  int64_t count = 0;
  for (const SequenceRows& rows : {SequenceRows{0, 1, last},
                                   {0, 18, 3},
                                   {0, 1, 0},
                                   {0, 1, 1'023},
                                   {0, 2, 64},
                                   {0, 1, 1'024}}) {
    sequences.push_back({{count, rows.num_rows, rows.first_position}, keys.table});
    count += rows.num_rows;
  }
  const Tensor q = OnGpu(RandomMatrix(DType::kBf16, {count, sizes.heads, sizes.head_dim}, 1, 0));
  Tensor out = Poison(DType::kBf16, q.shape());
  ASSERT_OK(gpu_->SoftmaxAttention(q.view(), sequences, keys.pool(), out.view()));
  const Tensor together = OnHost(out);
  for (const PagedSequence& sequence : sequences) {
    const SequenceRows rows = sequence.rows;
    const PagedSequence alone{{0, rows.num_rows, rows.first_position}, keys.table};
    Tensor part = Poison(DType::kBf16, {rows.num_rows, sizes.heads, sizes.head_dim});
    ASSERT_OK(gpu_->SoftmaxAttention(q.view().Rows(rows.row_begin, rows.num_rows), {&alone, 1},
                                     keys.pool(), part.view()));
    EXPECT_TRUE(SameBits(OnHost(part).view(), together.view().Rows(rows.row_begin, rows.num_rows)));
  }
  for (int again = 1; again < Repeats(); ++again) {
    Tensor repeated = Poison(DType::kBf16, q.shape());
    ASSERT_OK(gpu_->SoftmaxAttention(q.view(), sequences, keys.pool(), repeated.view()));
    ASSERT_TRUE(SameBits(OnHost(repeated).view(), together.view())) << "run " << again;
  }
}

class Lightning {
 public:
  Lightning(KernelBackend* backend, const ModelSizes& sizes, ConstTensorView decays)
      : backend_(backend),
        decays_(decays),
        state_(backend->NewTensor(DType::kF32, {sizes.heads, sizes.head_dim, sizes.head_dim})),
        k_(backend->NewTensor(DType::kBf16, {sizes.heads, kLightningChunk, sizes.head_dim})),
        v_(backend->NewTensor(DType::kBf16, {sizes.heads, kLightningChunk, sizes.head_dim})) {}

  // The next rows, into `out`.
  void Run(ConstTensorView qkv, TensorView out) {
    const LightningSequence sequence{
        {0, qkv.dim(0), position_}, state_.view(), k_.view(), v_.view()};
    EXPECT_OK(backend_->LightningAttention(qkv, decays_, {&sequence, 1}, out));
    position_ += qkv.dim(0);
  }
  const Tensor& state() const { return state_; }

 private:
  KernelBackend* const backend_;
  const ConstTensorView decays_;
  Tensor state_, k_, v_;
  int64_t position_ = 0;
};

TEST_F(CudaSequenceBitsTest, LightningOfAPromptIsThatOfItsRows) {
  const ModelSizes sizes = Sizes();
  const int64_t rows = OnRealGpu() ? 300 : 40;
  Tensor decays(DType::kF32, {sizes.heads});
  for (int64_t h = 0; h < sizes.heads; ++h) {
    decays.data_as<float>()[h] = 0.9f / static_cast<float>(h + 1);
  }
  const Tensor gpu_decays = OnGpu(decays);
  const Tensor qkv =
      OnGpu(RandomMatrix(DType::kBf16, {rows, sizes.heads, 3, sizes.head_dim}, 1, -2));
  Lightning whole(gpu_.get(), sizes, gpu_decays.view());
  Tensor prompt = Poison(DType::kF32, {rows, sizes.heads, sizes.head_dim});
  whole.Run(qkv.view(), prompt.view());
  const Tensor want = OnHost(prompt);
  const Tensor want_state = OnHost(whole.state());
  for (const int64_t part : {1, 7, 32, 33}) {
    Lightning cut(gpu_.get(), sizes, gpu_decays.view());
    Tensor out = Poison(DType::kF32, prompt.shape());
    for (int64_t row = 0; row < rows; row += part) {
      const int64_t count = std::min(part, rows - row);
      cut.Run(qkv.view().Rows(row, count), out.view().Rows(row, count));
    }
    ASSERT_TRUE(SameBits(OnHost(out).view(), want.view())) << part;
    ASSERT_TRUE(SameBits(OnHost(cut.state()).view(), want_state.view())) << part;
  }
  for (int again = 1; again < Repeats(); ++again) {
    Lightning repeated(gpu_.get(), sizes, gpu_decays.view());
    Tensor out = Poison(DType::kF32, prompt.shape());
    repeated.Run(qkv.view(), out.view());
    ASSERT_TRUE(SameBits(OnHost(out).view(), want.view())) << "run " << again;
  }
}

TEST_F(CudaSequenceBitsTest, RowsOfLogitsGiveTheSameAloneAndAgain) {
  const int64_t vocab = Sizes().vocab;
  const int64_t rows = OnRealGpu() ? 64 : 3;
  Tensor logits = OnGpu(RandomMatrix(DType::kF32, {rows, vocab}, 1, 0));
  std::vector<TokenDraw> draws;
  for (int64_t row = 0; row < rows; ++row) {
    const float third = static_cast<float>(row % 3);
    draws.push_back({.row = row,
                     .temperature = 0.7f + third,
                     .top_k = row % 2 == 0 ? 0 : 50,
                     .top_p = 1.0f - 0.1f * third,
                     .uniform = static_cast<double>(row) / static_cast<double>(rows)});
  }
  const std::vector<float> temperatures(static_cast<size_t>(rows), 0.8f);
  std::vector<float> lse(temperatures.size());
  std::vector<int32_t> ids(draws.size());
  ASSERT_OK(gpu_->LogSumExp(logits.view(), temperatures, lse));
  ASSERT_OK(gpu_->DrawTokens(logits.view(), draws, ids));
  for (int again = 1; again < Repeats(); ++again) {
    std::vector<float> other_lse(lse.size());
    std::vector<int32_t> other_ids(ids.size());
    ASSERT_OK(gpu_->LogSumExp(logits.view(), temperatures, other_lse));
    ASSERT_OK(gpu_->DrawTokens(logits.view(), draws, other_ids));
    ASSERT_EQ(other_lse, lse);
    ASSERT_EQ(other_ids, ids);
  }
  for (size_t row = 0; row < draws.size(); ++row) {
    const auto at = static_cast<int64_t>(row);
    float alone = 0.0f;
    int32_t id = -1;
    ASSERT_OK(gpu_->LogSumExp(logits.view().Rows(at, 1), {temperatures.data(), 1}, {&alone, 1}));
    ASSERT_OK(gpu_->DrawTokens(logits.view(), {&draws[row], 1}, {&id, 1}));
    EXPECT_EQ(alone, lse[row]);
    EXPECT_EQ(id, ids[row]);
  }
}

}  // namespace
}  // namespace m1
