#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "common/kernels/exact_math.h"
#include "common/kernels/reference/attention_ops.h"
#include "common/tensor/tensor.h"

namespace m1 {
namespace {

constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kDim = 24;
constexpr int64_t kRows = 1100;  // two segments

struct Case {
  explicit Case(DType act)
      : q(act, {kRows, kHeads, kDim}), k(act, {kRows, kKvHeads, kDim}), v(act, k.shape()) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> value(-1.0f, 1.0f);
    for (Tensor* x : {&q, &k, &v}) {
      for (int64_t i = 0; i < x->shape().num_elements(); ++i) {
        if (act == DType::kBf16) {
          x->data_as<Bf16>()[i] = FloatToBf16(value(random));
        } else {
          x->data_as<float>()[i] = value(random);
        }
      }
    }
  }
  Tensor q, k, v;
};

// Steps of `step` rows over a pool that starts as NaN.
Tensor RunInSteps(const Case& c, int64_t step) {
  const ScopedFlushDenormals flush;
  const DType act = c.q.dtype();
  std::vector<int32_t> table;
  for (int32_t b = 17; b >= 0; --b) table.push_back(b);
  Tensor pool_k(act, {18, kKvHeads, kKvBlockTokens, kDim});
  Tensor pool_v(act, pool_k.shape());
  const KvPool pool{pool_k.view(), pool_v.view()};
  std::memset(pool.k.data(), 0xff, static_cast<size_t>(pool.k.num_bytes()));
  std::memset(pool.v.data(), 0xff, static_cast<size_t>(pool.v.num_bytes()));
  Tensor out(act, c.q.shape());
  for (int64_t begin = 0; begin < kRows; begin += step) {
    const PagedSequence sequence{{begin, std::min(step, kRows - begin), begin}, table};
    EXPECT_TRUE(ReferenceAppendKv(c.k.view(), c.v.view(), {&sequence, 1}, pool).ok());
    EXPECT_TRUE(ReferenceSoftmaxAttention(c.q.view(), {&sequence, 1}, pool, out.view()).ok());
  }
  return out;
}

TEST(SoftmaxAttentionTest, MatchesDenseSoftmaxInDouble) {
  const Case c(DType::kF32);
  const Tensor out = RunInSteps(c, kRows);
  for (const int64_t t : {0, 1, 63, 64, 500, 1023, 1024, 1099}) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const float* q = c.q.data_as<float>() + (t * kHeads + h) * kDim;
      double sum = 0;
      std::vector<double> want(kDim);
      for (int64_t b = 0; b <= t; ++b) {
        const int64_t row = (b * kKvHeads + h / 2) * kDim;
        double s = 0;
        for (int64_t e = 0; e < kDim; ++e) {
          s += static_cast<double>(q[e]) * static_cast<double>(c.k.data_as<float>()[row + e]);
        }
        const double p = std::exp(s / std::sqrt(static_cast<double>(kDim)));
        sum += p;
        for (int64_t e = 0; e < kDim; ++e) {
          want[static_cast<size_t>(e)] += p * static_cast<double>(c.v.data_as<float>()[row + e]);
        }
      }
      for (int64_t e = 0; e < kDim; ++e) {
        // Averages of values below 1: about 100 roundings of 2^-24.
        ASSERT_NEAR(out.data_as<float>()[(t * kHeads + h) * kDim + e],
                    want[static_cast<size_t>(e)] / sum, 1e-5);
      }
    }
  }
}

TEST(SoftmaxAttentionTest, ChunkingChangesNoBit) {
  for (const DType act : {DType::kF32, DType::kBf16}) {
    const Case c(act);
    const Tensor want = RunInSteps(c, kRows);
    for (const int64_t step : {1, 65}) {
      const Tensor out = RunInSteps(c, step);
      EXPECT_EQ(std::memcmp(out.view().data(), want.view().data(),
                            static_cast<size_t>(out.view().num_bytes())),
                0)
          << step;
    }
  }
}

}  // namespace
}  // namespace m1
