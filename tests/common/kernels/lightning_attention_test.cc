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

constexpr int64_t kHeads = 3;
constexpr int64_t kDim = 24;

void FillRandom(Tensor& x, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  for (int64_t i = 0; i < x.shape().num_elements(); ++i) {
    const float f = value(random);
    if (x.dtype() == DType::kBf16) {
      x.data_as<Bf16>()[i] = FloatToBf16(f);
    } else {
      x.data_as<float>()[i] = f;
    }
  }
}

// The memory of one sequence, its open chunk full of NaN.
struct Memory {
  explicit Memory(DType act)
      : state(DType::kF32, {kHeads, kDim, kDim}),
        k(act, {kHeads, kLightningChunk, kDim}),
        v(act, {kHeads, kLightningChunk, kDim}) {
    std::memset(k.view().data(), 0xff, static_cast<size_t>(k.view().num_bytes()));
    std::memset(v.view().data(), 0xff, static_cast<size_t>(v.view().num_bytes()));
  }
  Tensor state, k, v;
};

// Runs qkv from position 0 in steps of `step` rows.
Tensor RunInSteps(const Tensor& qkv, const Tensor& decays, int64_t step, Memory& memory) {
  const ScopedFlushDenormals flush;
  const int64_t rows = qkv.shape()[0];
  Tensor out(DType::kF32, {rows, kHeads, kDim});
  for (int64_t begin = 0; begin < rows; begin += step) {
    const LightningSequence sequence{{begin, std::min(step, rows - begin), begin},
                                     memory.state.view(),
                                     memory.k.view(),
                                     memory.v.view()};
    EXPECT_TRUE(
        ReferenceLightningAttention(qkv.view(), decays.view(), {&sequence, 1}, out.view()).ok());
  }
  return out;
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.view().data(), b.view().data(), static_cast<size_t>(a.view().num_bytes())) ==
         0;
}

Tensor Decays() {
  Tensor decays(DType::kF32, {kHeads});
  for (int64_t h = 0; h < kHeads; ++h) {
    decays.data_as<float>()[h] = h == 0 ? 1.0f : 0.05f / static_cast<float>(h);
  }
  return decays;
}

TEST(LightningAttentionTest, MatchesTheRecurrenceInDouble) {
  Tensor qkv(DType::kF32, {100, kHeads, 3, kDim});
  FillRandom(qkv, 1);
  const Tensor decays = Decays();
  Memory memory(DType::kF32);
  const Tensor out = RunInSteps(qkv, decays, 100, memory);
  for (int64_t h = 0; h < kHeads; ++h) {
    std::vector<double> state(kDim * kDim);
    const double decay = std::exp(-static_cast<double>(decays.data_as<float>()[h]));
    for (int64_t t = 0; t < 100; ++t) {
      const float* q = qkv.data_as<float>() + (t * kHeads + h) * 3 * kDim;
      for (int64_t e = 0; e < kDim; ++e) {
        double want = 0;
        for (int64_t c = 0; c < kDim; ++c) {
          double& s = state[static_cast<size_t>(c * kDim + e)];
          s = s * decay + static_cast<double>(q[kDim + c]) * static_cast<double>(q[2 * kDim + e]);
          want += static_cast<double>(q[c]) * s;
        }
        // Outputs reach about 30; some 200 roundings of 2^-24 each stay well below 1e-4.
        ASSERT_NEAR(out.data_as<float>()[(t * kHeads + h) * kDim + e], want, 1e-4) << t << " " << e;
      }
    }
  }
}

TEST(LightningAttentionTest, ChunkingChangesNoBit) {
  for (const DType act : {DType::kF32, DType::kBf16}) {
    Tensor qkv(act, {100, kHeads, 3, kDim});
    FillRandom(qkv, 2);
    Memory whole(act);
    const Tensor want = RunInSteps(qkv, Decays(), 100, whole);
    for (const int64_t step : {1, 7, 32, 33}) {
      Memory memory(act);
      EXPECT_TRUE(SameBytes(RunInSteps(qkv, Decays(), step, memory), want)) << step;
      EXPECT_TRUE(SameBytes(memory.state, whole.state)) << step;
      EXPECT_TRUE(SameBytes(memory.k, whole.k)) << step;
      EXPECT_TRUE(SameBytes(memory.v, whole.v)) << step;
    }
  }
}

}  // namespace
}  // namespace m1
