// AppendKv and SoftmaxAttention on every target and with 1 to 3 threads: equal to the plain loops,
// and the same whatever the steps are that a sequence is cut into.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

struct Heads {
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
};

// Some sequences in one step over one pool; blocks lie in random order. What no sequence has
// written is NaN.
struct Case {
  Case(RandomTensors& random, DType act, const Heads& heads, std::vector<SequenceRows> sequences)
      : rows(std::move(sequences)) {
    int64_t num_rows = 0;
    int64_t num_blocks = 1;
    for (SequenceRows& sequence : rows) {
      sequence.row_begin = num_rows;
      num_rows += sequence.num_rows;
      tables.emplace_back();
      const int64_t end = sequence.first_position + sequence.num_rows;
      for (int64_t b = 0; b * kKvBlockTokens < end; ++b) {
        tables.back().push_back(static_cast<int32_t>(num_blocks++));
      }
    }
    std::vector<int32_t> order(static_cast<size_t>(num_blocks));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = 1; i < order.size(); ++i) {
      std::swap(order[i], order[static_cast<size_t>(random.Integer(0, static_cast<int64_t>(i)))]);
    }
    for (std::vector<int32_t>& table : tables) {
      for (int32_t& block : table) block = order[static_cast<size_t>(block)];
    }
    q = random.Make(act, {num_rows, heads.num_heads, heads.head_dim});
    k = random.Make(act, {num_rows, heads.num_kv_heads, heads.head_dim});
    v = random.Make(act, k.shape());
    const Shape pool_shape{num_blocks, heads.num_kv_heads, kKvBlockTokens, heads.head_dim};
    pool_k = Poisoned(act, pool_shape);
    pool_v = Poisoned(act, pool_shape);
  }

  std::vector<PagedSequence> Sequences() const {
    std::vector<PagedSequence> sequences;
    for (size_t i = 0; i < rows.size(); ++i) sequences.push_back({rows[i], tables[i]});
    return sequences;
  }
  KvPool Pool() { return {pool_k.view(), pool_v.view()}; }

  std::vector<SequenceRows> rows;
  std::vector<std::vector<int32_t>> tables;
  Tensor q, k, v, pool_k, pool_v;
};

// Fills the keys before each sequence's first row.
void FillPast(KernelBackend& backend, RandomTensors& random, Case& c) {
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const int64_t past = c.rows[i].first_position;
    const Shape shape{past, c.k.shape()[1], c.k.shape()[2]};
    const Tensor k = random.Make(c.k.dtype(), shape);
    const Tensor v = random.Make(c.k.dtype(), shape);
    const PagedSequence sequence{{0, past, 0}, c.tables[i]};
    ASSERT_OK(backend.AppendKv(k.view(), v.view(), {&sequence, 1}, c.Pool()));
  }
}

class SoftmaxKernelsTest : public testing::Test {
 protected:
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();

  void ExpectEqual(RandomTensors& random, Case c) {
    FillPast(*reference_, random, c);
    ASSERT_OK(reference_->AppendKv(c.k.view(), c.v.view(), c.Sequences(), c.Pool()));
    Tensor want = Poisoned(c.q.dtype(), c.q.shape());
    ASSERT_OK(reference_->SoftmaxAttention(c.q.view(), c.Sequences(), c.Pool(), want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(c.q.dtype(), c.q.shape());
      ASSERT_OK(backend->SoftmaxAttention(c.q.view(), c.Sequences(), c.Pool(), got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }
};

TEST_F(SoftmaxKernelsTest, AppendKvEqualsThePlainLoop) {
  for (const DType act : kActTypes) {
    RandomTensors random(1, Spice::kSubnormals);
    Case c(random, act, {2, 2, 24}, {{0, 1, 63}, {0, 130, 10}, {0, 0, 5}});
    Tensor want_k = Poisoned(act, c.pool_k.shape());
    Tensor want_v = Poisoned(act, c.pool_v.shape());
    ASSERT_OK(reference_->AppendKv(c.k.view(), c.v.view(), c.Sequences(),
                                   {want_k.view(), want_v.view()}));
    for (const auto& backend : backends_) {
      Tensor got_k = Poisoned(act, c.pool_k.shape());
      Tensor got_v = Poisoned(act, c.pool_v.shape());
      ASSERT_OK(
          backend->AppendKv(c.k.view(), c.v.view(), c.Sequences(), {got_k.view(), got_v.view()}));
      EXPECT_TRUE(SameBits(got_k.view(), want_k.view())) << backend->name();
      EXPECT_TRUE(SameBits(got_v.view(), want_v.view())) << backend->name();
    }
  }
}

TEST_F(SoftmaxKernelsTest, EqualsThePlainLoopsForAllHeadShapes) {
  RandomTensors random(2);
  // Groups of 1, 3, 8 and more than a part holds; head sizes off the vector width among them.
  for (const Heads& heads : {Heads{2, 2, 1},
                             {4, 2, 16},
                             {2, 1, 24},
                             {3, 1, 48},
                             {8, 1, 80},
                             {16, 2, 128},
                             {66, 1, 16},
                             {1, 1, 256},
                             {1, 1, 272}}) {
    for (const DType act : kActTypes) {
      ExpectEqual(
          random,
          Case(
              random, act, heads,
              {{0, 1, 0}, {0, 1, 62}, {0, 1, 63}, {0, 1, 64}, {0, 0, 9}, {0, 67, 0}, {0, 5, 126}}));
    }
  }
}

TEST_F(SoftmaxKernelsTest, EqualsThePlainLoopsAcrossSegments) {
  RandomTensors random(3);
  for (const DType act : kActTypes) {
    ExpectEqual(random, Case(random, act, {4, 2, 32}, {{0, 40, 1000}, {0, 1, 2200}, {0, 3, 2047}}));
  }
}

TEST_F(SoftmaxKernelsTest, SubnormalsAndInfinitiesGiveEqualBits) {
  for (const Spice spice : {Spice::kSubnormals, Spice::kInfinities}) {
    RandomTensors random(4, spice);
    for (const DType act : kActTypes) {
      ExpectEqual(random, Case(random, act, {4, 1, 32}, {{0, 70, 0}, {0, 2, 1023}}));
    }
  }
}

// The heaviest v is -0 and the other one so small that its product is flushed to -0: the masked
// keys behind, which add +0, decide the sign.
TEST_F(SoftmaxKernelsTest, MaskedKeysTurnMinusZeroIntoZero) {
  for (const DType act : kActTypes) {
    RandomTensors random(7);
    Case c(random, act, {1, 1, 16}, {{0, 2, 0}});
    const float numbers[2] = {-0.0f, -std::numeric_limits<float>::min()};
    for (int64_t i = 0; i < 32; ++i) {
      const float key = i < 16 ? 1.0f : 0.0f;
      const float value = numbers[i / 16];
      if (act == DType::kBf16) {
        c.q.data_as<Bf16>()[i] = FloatToBf16(1.0f);
        c.k.data_as<Bf16>()[i] = FloatToBf16(key);
        c.v.data_as<Bf16>()[i] = FloatToBf16(value);
      } else {
        c.q.data_as<float>()[i] = 1.0f;
        c.k.data_as<float>()[i] = key;
        c.v.data_as<float>()[i] = value;
      }
    }
    ExpectEqual(random, std::move(c));
  }
}

TEST_F(SoftmaxKernelsTest, CuttingASequenceIntoStepsChangesNoBit) {
  constexpr int64_t kRows = 2200;
  for (const DType act : kActTypes) {
    RandomTensors random(5);
    Case c(random, act, {2, 1, 16}, {{0, kRows, 0}});
    Tensor want = Poisoned(act, c.q.shape());
    ASSERT_OK(backends_[0]->AppendKv(c.k.view(), c.v.view(), c.Sequences(), c.Pool()));
    ASSERT_OK(backends_[0]->SoftmaxAttention(c.q.view(), c.Sequences(), c.Pool(), want.view()));
    for (const auto& backend : backends_) {
      c.pool_k = Poisoned(act, c.pool_k.shape());
      c.pool_v = Poisoned(act, c.pool_v.shape());
      Tensor got = Poisoned(act, c.q.shape());
      for (int64_t row = 0; row < kRows;) {
        const int64_t longest = random.Integer(0, 3) == 0 ? 1 : 300;
        const int64_t rows = std::min(random.Integer(1, longest), kRows - row);
        const PagedSequence step{{row, rows, row}, c.tables[0]};
        ASSERT_OK(backend->AppendKv(c.k.view(), c.v.view(), {&step, 1}, c.Pool()));
        ASSERT_OK(backend->SoftmaxAttention(c.q.view(), {&step, 1}, c.Pool(), got.view()));
        row += rows;
      }
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }
}

TEST_F(SoftmaxKernelsTest, ARowAloneEqualsTheRowInABatch) {
  for (const DType act : kActTypes) {
    RandomTensors random(6);
    Case c(random, act, {8, 2, 64}, {{0, 3, 100}, {0, 70, 0}, {0, 1, 1500}});
    FillPast(*reference_, random, c);
    ASSERT_OK(reference_->AppendKv(c.k.view(), c.v.view(), c.Sequences(), c.Pool()));
    for (const auto& backend : backends_) {
      Tensor all = Poisoned(act, c.q.shape());
      Tensor alone = Poisoned(act, c.q.shape());
      ASSERT_OK(backend->SoftmaxAttention(c.q.view(), c.Sequences(), c.Pool(), all.view()));
      for (const PagedSequence& sequence : c.Sequences()) {
        for (int64_t r = 0; r < sequence.rows.num_rows; ++r) {
          const PagedSequence row{
              {sequence.rows.row_begin + r, 1, sequence.rows.first_position + r},
              sequence.block_table};
          ASSERT_OK(backend->SoftmaxAttention(c.q.view(), {&row, 1}, c.Pool(), alone.view()));
        }
      }
      EXPECT_TRUE(SameBits(alone.view(), all.view())) << backend->name();
    }
  }
}

}  // namespace
}  // namespace m1
