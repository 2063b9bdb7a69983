// CudaKernelBackend's attention: rotary, KV rows and lightning with the bits of the plain loops,
// softmax near them.
#include <numeric>
#include <span>
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using CudaAttentionTest = CudaBackendTest;

TEST_F(CudaAttentionTest, RotaryHasTheBitsOfThePlainLoop) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    for (const int64_t rows : RowsUnderTest()) {
      const Shape shape{rows, sizes.heads, sizes.head_dim};
      const Tensor x = RandomMatrix(DType::kF32, shape, 1);
      const Tensor cos = random_.Make(DType::kF32, {rows, sizes.rotary_half});
      const Tensor sin = random_.Make(DType::kF32, {rows, sizes.rotary_half});
      Tensor want(DType::kBf16, shape);
      Tensor got = Poison(DType::kBf16, shape);
      ASSERT_OK(plain_->Rotary(x.view(), cos.view(), sin.view(), want.view()));
      ASSERT_OK(gpu_->Rotary(OnGpu(x).view(), OnGpu(cos).view(), OnGpu(sin).view(), got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
    }
  }
}

// Over the border of two blocks; row 3 is of no sequence.
TEST_F(CudaAttentionTest, KvRowsGoWhereThePlainLoopPutsThem) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const std::vector<int32_t> first = {2, 0};
    const std::vector<int32_t> second = {1};
    const std::vector<PagedSequence> sequences = {{{0, 3, 62}, first}, {{4, 1, 5}, second}};
    const Shape pool_shape{3, sizes.kv_heads, kKvBlockTokens, sizes.head_dim};
    const Shape rows_shape{5, sizes.kv_heads, sizes.head_dim};
    Tensor want_k(DType::kBf16, pool_shape);
    Tensor want_v(DType::kBf16, pool_shape);
    Tensor got_k = gpu_->NewTensor(DType::kBf16, pool_shape);
    Tensor got_v = gpu_->NewTensor(DType::kBf16, pool_shape);
    const Tensor k = RandomMatrix(DType::kBf16, rows_shape, 1);
    const Tensor v = RandomMatrix(DType::kBf16, rows_shape, 2);
    ASSERT_OK(plain_->AppendKv(k.view(), v.view(), sequences, {want_k.view(), want_v.view()}));
    ASSERT_OK(
        gpu_->AppendKv(OnGpu(k).view(), OnGpu(v).view(), sequences, {got_k.view(), got_v.view()}));
    EXPECT_TRUE(SameBits(OnHost(got_k).view(), want_k.view()));
    EXPECT_TRUE(SameBits(OnHost(got_v).view(), want_v.view()));
  }
}

// One layer's memory of some sequences.
struct LinearMemory {
  LinearMemory(KernelBackend& backend, const ModelSizes& sizes, size_t count) {
    const Shape chunk{sizes.heads, kLightningChunk, sizes.head_dim};
    for (size_t i = 0; i < count; ++i) {
      states.push_back(
          backend.NewTensor(DType::kF32, {sizes.heads, sizes.head_dim, sizes.head_dim}));
      keys.push_back(backend.NewTensor(DType::kBf16, chunk));
      values.push_back(backend.NewTensor(DType::kBf16, chunk));
    }
  }
  std::vector<LightningSequence> Sequences(const std::vector<SequenceRows>& rows) {
    std::vector<LightningSequence> made;
    for (size_t i = 0; i < rows.size(); ++i) {
      made.push_back({rows[i], states[i].view(), keys[i].view(), values[i].view()});
    }
    return made;
  }

  std::vector<Tensor> states, keys, values;
};

// A prompt of two sequences over a grid line, a token of each, and on a real GPU more of both.
TEST_F(CudaAttentionTest, LightningHasTheBitsOfThePlainLoop) {
  std::vector<std::vector<SequenceRows>> steps = {{{0, 40, 0}, {40, 3, 0}},
                                                  {{0, 1, 40}, {1, 1, 3}}};
  if (OnRealGpu()) {
    steps.push_back({{0, 150, 41}, {150, 64, 4}});
    for (int64_t t = 0; t < 70; ++t) steps.push_back({{0, 1, 191 + t}, {1, 1, 68 + t}});
  }
  for (const ModelSizes& sizes : SizesUnderTest()) {
    Tensor decays(DType::kF32, {sizes.heads});
    for (int64_t h = 0; h < sizes.heads; ++h) {
      decays.data_as<float>()[h] = 0.9f / static_cast<float>(h + 1);
    }
    const Tensor gpu_decays = OnGpu(decays);
    LinearMemory plain(*plain_, sizes, 2);
    LinearMemory gpu(*gpu_, sizes, 2);
    for (const std::vector<SequenceRows>& rows : steps) {
      const int64_t count = rows[0].num_rows + rows[1].num_rows;
      const Tensor qkv = RandomMatrix(DType::kBf16, {count, sizes.heads, 3, sizes.head_dim},
                                      static_cast<uint64_t>(rows[0].first_position), -2);
      Tensor want(DType::kF32, {count, sizes.heads, sizes.head_dim});
      Tensor got = Poison(DType::kF32, want.shape());
      ASSERT_OK(plain_->LightningAttention(qkv.view(), decays.view(), plain.Sequences(rows),
                                           want.view()));
      ASSERT_OK(gpu_->LightningAttention(OnGpu(qkv).view(), gpu_decays.view(), gpu.Sequences(rows),
                                         got.view()));
      ASSERT_TRUE(SameBits(OnHost(got).view(), want.view())) << rows[0].first_position;
      for (size_t i = 0; i < 2; ++i) {
        ASSERT_TRUE(SameBits(OnHost(gpu.states[i]).view(), plain.states[i].view()));
        ASSERT_TRUE(SameBits(OnHost(gpu.keys[i]).view(), plain.keys[i].view()));
        ASSERT_TRUE(SameBits(OnHost(gpu.values[i]).view(), plain.values[i].view()));
      }
    }
  }
}

struct SoftmaxCase {
  std::vector<SequenceRows> rows;
  int64_t num_rows;
};

// Prompts and single rows, within a block, over its border, beyond a segment of 1024 keys.
SoftmaxCase SoftmaxRows() {
  if (!OnRealGpu()) return {{{0, 20, 3}, {20, 1, 70}, {21, 1, 1050}}, 22};
  return {{{0, 20, 3}, {20, 1, 70}, {21, 1, 1050}, {22, 1, 0}, {23, 200, 1000}, {223, 3, 9000}},
          226};
}

TEST_F(CudaAttentionTest, SoftmaxIsNearThePlainLoop) {
  const SoftmaxCase rows = SoftmaxRows();
  for (const ModelSizes& sizes : SizesUnderTest()) {
    std::vector<std::vector<int32_t>> tables;
    int32_t num_blocks = 0;
    for (const SequenceRows& sequence : rows.rows) {
      const int64_t last = sequence.first_position + sequence.num_rows - 1;
      tables.emplace_back(static_cast<size_t>(last / kKvBlockTokens + 1));
      std::iota(tables.back().rbegin(), tables.back().rend(), num_blocks);
      num_blocks += static_cast<int32_t>(tables.back().size());
    }
    std::vector<PagedSequence> sequences;
    for (size_t i = 0; i < tables.size(); ++i) sequences.push_back({rows.rows[i], tables[i]});
    const Shape pool_shape{num_blocks, sizes.kv_heads, kKvBlockTokens, sizes.head_dim};
    const Shape shape{rows.num_rows, sizes.heads, sizes.head_dim};
    Tensor k = RandomMatrix(DType::kBf16, pool_shape, 1, -1);
    Tensor v = RandomMatrix(DType::kBf16, pool_shape, 2, -2);
    Tensor gpu_k = OnGpu(k);
    Tensor gpu_v = OnGpu(v);
    const Tensor q = RandomMatrix(DType::kBf16, shape, 3, 0);  // scores with a deviation of 3
    Tensor want(DType::kBf16, shape);
    Tensor got = Poison(DType::kBf16, shape);
    ASSERT_OK(plain_->SoftmaxAttention(q.view(), sequences, {k.view(), v.view()}, want.view()));
    ASSERT_OK(gpu_->SoftmaxAttention(OnGpu(q).view(), sequences, {gpu_k.view(), gpu_v.view()},
                                     got.view()));
    // Weights of keys round to the other bf16 now and then.
    EXPECT_TRUE(Near(OnHost(got), want, 0.004));
  }
}

// Values of keys, some of them not finite: in each row of a sequence from its third on another
// element.
Tensor ValuesThatAreNotFinite(const ModelSizes& sizes, std::span<const PagedSequence> sequences) {
  Tensor v = RandomMatrix(DType::kBf16, {4, sizes.kv_heads, kKvBlockTokens, sizes.head_dim}, 2, -2);
  for (const PagedSequence& sequence : sequences) {
    for (int64_t row = 2; row < sequence.rows.num_rows; ++row) {
      const int64_t position = sequence.rows.first_position + row;
      const int64_t block = sequence.block_table[static_cast<size_t>(position / kKvBlockTokens)];
      for (int64_t head = 0; head < sizes.kv_heads; ++head) {
        const int64_t key =
            (block * sizes.kv_heads + head) * kKvBlockTokens + position % kKvBlockTokens;
        v.data_as<Bf16>()[key * sizes.head_dim + row % sizes.head_dim] = kNotFinite[row % 3];
      }
    }
  }
  return v;
}

// A prompt and a few rows, over the border of two blocks. Weights are far from 0, so that infinity
// times one is no NaN.
TEST_F(CudaAttentionTest, SoftmaxKeepsValuesThatAreNotFiniteFromEarlierRows) {
  const std::vector<int32_t> first = {2, 0};
  const std::vector<int32_t> second = {1, 3};
  const std::vector<PagedSequence> sequences = {{{0, 30, 50}, first}, {{30, 4, 62}, second}};
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Shape shape{34, sizes.heads, sizes.head_dim};
    Tensor v = ValuesThatAreNotFinite(sizes, sequences);
    Tensor k = RandomMatrix(DType::kBf16, v.shape(), 1, -1);
    Tensor gpu_k = OnGpu(k);
    Tensor gpu_v = OnGpu(v);
    const Tensor q = RandomMatrix(DType::kBf16, shape, 3, -3);
    Tensor want(DType::kBf16, shape);
    Tensor got = Poison(DType::kBf16, shape);
    ASSERT_OK(plain_->SoftmaxAttention(q.view(), sequences, {k.view(), v.view()}, want.view()));
    ASSERT_OK(gpu_->SoftmaxAttention(OnGpu(q).view(), sequences, {gpu_k.view(), gpu_v.view()},
                                     got.view()));
    EXPECT_TRUE(SameKinds(OnHost(got).view(), want.view()));
  }
}

}  // namespace
}  // namespace m1
