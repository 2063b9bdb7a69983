// CudaKernelBackend against the plain loops: what the host hands over arrives, what it asks for is
// there when the call returns. Linked once with a simulated GPU and once with a real one.
#include "common/kernels/cuda_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::HasSubstr;

constexpr int64_t kHidden = 64;

class CudaBackendTest : public testing::Test {
 protected:
  CudaBackendTest() : random_(7), gpu_(CreateCudaBackend().value()) {}

  // A copy on the GPU.
  Tensor OnGpu(const Tensor& host) {
    Tensor device = gpu_->NewTensor(host.dtype(), host.shape());
    EXPECT_OK(gpu_->Upload(host.view(), device.view()));
    return device;
  }
  Tensor OnHost(const Tensor& device) {
    Tensor host = Poisoned(device.dtype(), device.shape());
    EXPECT_OK(gpu_->Download(device.view(), host.view()));
    return host;
  }
  Tensor Poison(DType dtype, const Shape& shape) { return OnGpu(Poisoned(dtype, shape)); }

  RandomTensors random_;
  std::unique_ptr<KernelBackend> plain_ = CreateReferenceBackend();
  std::unique_ptr<KernelBackend> gpu_;
};

double LargestDifference(const Tensor& a, const Tensor& b) {
  double worst = 0.0;
  for (int64_t i = 0; i < a.shape().num_elements(); ++i) {
    const auto value = [i](const Tensor& t) {
      return t.dtype() == DType::kBf16 ? Bf16ToFloat(t.data_as<Bf16>()[i]) : t.data_as<float>()[i];
    };
    worst = std::max(worst, std::abs(double{value(a)} - double{value(b)}));
  }
  return worst;
}

TEST_F(CudaBackendTest, NewTensorsAreZeroAndTransfersKeepBits) {
  const Tensor zero = OnHost(gpu_->NewTensor(DType::kF32, {3, 5}));
  EXPECT_TRUE(SameBits(zero.view(), Tensor(DType::kF32, {3, 5}).view()));
  const Tensor x = random_.Make(DType::kBf16, {7, 3});
  Tensor device = OnGpu(x);
  EXPECT_TRUE(SameBits(OnHost(device).view(), x.view()));
  ASSERT_OK(gpu_->Zero(device.view().Rows(2, 5)));
  const Tensor half = OnHost(device);
  EXPECT_TRUE(SameBits(half.view().Rows(0, 2), x.view().Rows(0, 2)));
  EXPECT_TRUE(SameBits(half.view().Rows(2, 5), Tensor(DType::kBf16, {5, 3}).view()));
}

TEST_F(CudaBackendTest, CopyRowsTakesRowsOfAnyWidth) {
  for (const int64_t width : {1, 2, 3, 8, 24}) {  // of bf16: words of 1, 4 and 16 bytes
    const Tensor x = random_.Make(DType::kBf16, {5, width});
    const std::vector<int32_t> from = {4, 0, 4};
    const std::vector<int32_t> to = {1, 3, 0};
    Tensor want = Poisoned(DType::kBf16, {4, width});
    Tensor got = OnGpu(want);
    ASSERT_OK(plain_->CopyRows(x.view(), from, want.view(), to));
    ASSERT_OK(gpu_->CopyRows(OnGpu(x).view(), from, got.view(), to));
    EXPECT_TRUE(SameBits(OnHost(got).view(), want.view())) << width;
  }
}

// Arrays of the host change right after the call, more of them than the upload buffer holds.
TEST_F(CudaBackendTest, UploadsMayBeReusedAtOnce) {
  constexpr int32_t kRows = 60'000;
  Tensor x(DType::kI32, {kRows, 1});
  std::iota(x.data_as<int32_t>(), x.data_as<int32_t>() + kRows, 0);
  const Tensor from = OnGpu(x);
  std::vector<int32_t> ascending(kRows);
  std::iota(ascending.begin(), ascending.end(), 0);
  Tensor got = Poison(DType::kI32, {kRows, 1});
  const int32_t calls[][2] = {{0, 20'000}, {20'000, 20'000}, {40'000, 20'000}};
  for (const auto& [first, count] : calls) {
    std::vector<int32_t> rows(ascending.begin() + first, ascending.begin() + first + count);
    for (int again = 0; again < 4; ++again) {
      ASSERT_OK(gpu_->CopyRows(from.view(), rows, got.view(), rows));
    }
    rows.assign(rows.size(), 0);
  }
  EXPECT_TRUE(SameBits(OnHost(got).view(), x.view()));
}

TEST_F(CudaBackendTest, EmbedRoundAndElementOperationsHaveTheBitsOfThePlainLoops) {
  const std::vector<int32_t> ids = {3, 0, 8};
  for (const DType table_type : kActTypes) {
    const Tensor table = random_.Make(table_type, {9, kHidden});
    Tensor want(DType::kF32, {3, kHidden});
    Tensor got = Poison(DType::kF32, {3, kHidden});
    ASSERT_OK(plain_->Embed(ids, table.view(), want.view()));
    ASSERT_OK(gpu_->Embed(ids, OnGpu(table).view(), got.view()));
    EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
  }
  const Tensor x = random_.Make(DType::kF32, {3, kHidden});
  const Tensor y = random_.Make(DType::kF32, {3, kHidden});
  Tensor want(DType::kF32, {3, kHidden});
  Tensor got = OnGpu(y);
  ASSERT_OK(plain_->ScaledAdd(1.5f, x.view(), 0.25f, y.view(), want.view()));
  ASSERT_OK(gpu_->ScaledAdd(1.5f, OnGpu(x).view(), 0.25f, got.view(), got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
  Tensor want_act(DType::kBf16, {3, kHidden});
  Tensor got_act = Poison(DType::kBf16, {3, kHidden});
  ASSERT_OK(plain_->Round(x.view(), want_act.view()));
  ASSERT_OK(gpu_->Round(OnGpu(x).view(), got_act.view()));
  EXPECT_TRUE(SameBits(OnHost(got_act).view(), want_act.view()));
  ASSERT_OK(plain_->SigmoidMul(x.view(), y.view(), want_act.view()));
  ASSERT_OK(gpu_->SigmoidMul(OnGpu(x).view(), OnGpu(y).view(), got_act.view()));
  EXPECT_TRUE(SameBits(OnHost(got_act).view(), want_act.view()));
}

TEST_F(CudaBackendTest, NormIsNearThePlainLoop) {
  const Tensor x = random_.Make(DType::kF32, {3, 300});
  for (const DType weight_type : kActTypes) {
    const Tensor weight = random_.Make(weight_type, {300});
    Tensor want(DType::kF32, {3, 300});
    Tensor got = OnGpu(x);
    ASSERT_OK(plain_->RmsNorm(x.view(), weight.view(), 1e-5f, want.view()));
    ASSERT_OK(gpu_->RmsNorm(got.view(), OnGpu(weight).view(), 1e-5f, got.view()));
    EXPECT_LT(LargestDifference(OnHost(got), want), 2e-6);
  }
}

TEST_F(CudaBackendTest, GateCombineAndMixHaveTheBitsOfThePlainLoops) {
  const Tensor logits = random_.Make(DType::kF32, {5, 32});
  Tensor want_ids(DType::kI32, {5, 2});
  Tensor want_weights(DType::kF32, {5, 2});
  Tensor ids = Poison(DType::kI32, {5, 2});
  Tensor weights = Poison(DType::kF32, {5, 2});
  ASSERT_OK(plain_->TopKGate(logits.view(), want_ids.view(), want_weights.view()));
  ASSERT_OK(gpu_->TopKGate(OnGpu(logits).view(), ids.view(), weights.view()));
  EXPECT_TRUE(SameBits(OnHost(ids).view(), want_ids.view()));
  EXPECT_TRUE(SameBits(OnHost(weights).view(), want_weights.view()));

  const Tensor y = random_.Make(DType::kBf16, {5, 2, kHidden});
  Tensor want(DType::kF32, {5, kHidden});
  Tensor got = Poison(DType::kF32, {5, kHidden});
  ASSERT_OK(plain_->CombineExperts(y.view(), want_weights.view(), want.view()));
  ASSERT_OK(gpu_->CombineExperts(OnGpu(y).view(), weights.view(), got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));

  const Tensor shared = random_.Make(DType::kF32, {5, kHidden});
  const Tensor coefficient = random_.Make(DType::kF32, {5, 1});
  ASSERT_OK(plain_->SharedExpertMix(want.view(), shared.view(), coefficient.view(), want.view()));
  ASSERT_OK(gpu_->SharedExpertMix(got.view(), OnGpu(shared).view(), OnGpu(coefficient).view(),
                                  got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
}

// q, k and v: one x, outputs of two types. bf16 rows in few and many; fp32 rows in three terms.
TEST_F(CudaBackendTest, LinearsAreNearThePlainLoopsAndRowIndependent) {
  const Tensor wide = random_.Make(DType::kBf16, {96, kHidden});
  const Tensor narrow = random_.Make(DType::kBf16, {33, kHidden});
  const Tensor gpu_wide = OnGpu(wide);
  const Tensor gpu_narrow = OnGpu(narrow);
  for (const int64_t rows : {1, 9, 40}) {
    for (const DType x_type : kActTypes) {
      const DType narrow_type = x_type == DType::kBf16 ? DType::kBf16 : DType::kF32;
      const Tensor x = random_.Make(x_type, {rows, kHidden});
      Tensor want_wide(DType::kF32, {rows, 96});
      Tensor want_narrow(narrow_type, {rows, 33});
      const LinearProduct want[] = {{wide.view(), Epilogue::kNone, want_wide.view()},
                                    {narrow.view(), Epilogue::kSilu, want_narrow.view()}};
      ASSERT_OK(plain_->Linears(x.view(), want));
      Tensor got_wide = Poison(DType::kF32, {rows, 96});
      Tensor got_narrow = Poison(narrow_type, {rows, 33});
      const Tensor gpu_x = OnGpu(x);
      const LinearProduct got[] = {{gpu_wide.view(), Epilogue::kNone, got_wide.view()},
                                   {gpu_narrow.view(), Epilogue::kSilu, got_narrow.view()}};
      ASSERT_OK(gpu_->Linears(gpu_x.view(), got));
      EXPECT_LT(LargestDifference(OnHost(got_wide), want_wide), 1e-5);
      EXPECT_LT(LargestDifference(OnHost(got_narrow), want_narrow), 2e-2);
      Tensor alone = Poison(DType::kF32, {1, 96});
      ASSERT_OK(gpu_->Linear(gpu_x.view().Rows(rows - 1, 1), gpu_wide.view(), Epilogue::kNone,
                             alone.view()));
      EXPECT_TRUE(SameBits(OnHost(alone).view(), OnHost(got_wide).view().Rows(rows - 1, 1)));
    }
  }
}

TEST_F(CudaBackendTest, ExpertsOfMoreGroupsThanALaunchTakes) {
  constexpr int64_t kGroups = 70;
  constexpr int64_t kIntermediate = 32;
  const Tensor w1 = random_.Make(DType::kBf16, {kGroups, kIntermediate, kHidden});
  const Tensor w3 = random_.Make(DType::kBf16, {kGroups, kIntermediate, kHidden});
  const Tensor w2 = random_.Make(DType::kBf16, {kGroups, kHidden, kIntermediate});
  const Tensor x = random_.Make(DType::kBf16, {kGroups + 1, kHidden});
  const auto run = [&](KernelBackend& backend, const Tensor& in, const Tensor& a, const Tensor& b,
                       const Tensor& c, Tensor out) {
    std::vector<ExpertGroup> groups;
    for (int64_t g = 0; g < kGroups; ++g) {
      groups.push_back({g, g == kGroups - 1 ? 2 : 1, a.view()[g], c.view()[g], b.view()[g]});
    }
    Tensor mid = backend.NewTensor(DType::kBf16, {kGroups + 1, kIntermediate});
    EXPECT_OK(backend.ExpertFfn(in.view(), groups, mid.view(), out.view()));
    return out;
  };
  const Tensor want = run(*plain_, x, w1, w3, w2, Poisoned(DType::kBf16, x.shape()));
  const Tensor got =
      run(*gpu_, OnGpu(x), OnGpu(w1), OnGpu(w3), OnGpu(w2), Poison(DType::kBf16, x.shape()));
  EXPECT_LT(LargestDifference(OnHost(got), want), 0.26);  // a bf16 step at 32

  Tensor gated = Poison(DType::kBf16, {kGroups + 1, kIntermediate});
  Tensor want_gated(DType::kBf16, {kGroups + 1, kIntermediate});
  ASSERT_OK(plain_->GatedUp(x.view(), w1.view()[0], w3.view()[0], want_gated.view()));
  ASSERT_OK(gpu_->GatedUp(OnGpu(x).view(), OnGpu(w1).view()[0], OnGpu(w3).view()[0], gated.view()));
  EXPECT_LT(LargestDifference(OnHost(gated), want_gated), 0.13);
}

TEST_F(CudaBackendTest, RotaryAndKvRowsHaveTheBitsOfThePlainLoops) {
  const Tensor x = random_.Make(DType::kF32, {4, 2, 32});
  const Tensor cos = random_.Make(DType::kF32, {4, 8});
  const Tensor sin = random_.Make(DType::kF32, {4, 8});
  Tensor want(DType::kBf16, {4, 2, 32});
  Tensor got = Poison(DType::kBf16, {4, 2, 32});
  ASSERT_OK(plain_->Rotary(x.view(), cos.view(), sin.view(), want.view()));
  ASSERT_OK(gpu_->Rotary(OnGpu(x).view(), OnGpu(cos).view(), OnGpu(sin).view(), got.view()));
  EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));

  const std::vector<int32_t> first = {2, 0};
  const std::vector<int32_t> second = {1};
  const std::vector<PagedSequence> sequences = {{{0, 2, 63}, first}, {{3, 1, 5}, second}};
  const Shape pool_shape{3, 2, kKvBlockTokens, 32};
  Tensor want_k(DType::kBf16, pool_shape);
  Tensor want_v(DType::kBf16, pool_shape);
  Tensor got_k = gpu_->NewTensor(DType::kBf16, pool_shape);
  Tensor got_v = gpu_->NewTensor(DType::kBf16, pool_shape);
  const Tensor v = random_.Make(DType::kBf16, {4, 2, 32});
  ASSERT_OK(plain_->AppendKv(want.view(), v.view(), sequences, {want_k.view(), want_v.view()}));
  ASSERT_OK(gpu_->AppendKv(got.view(), OnGpu(v).view(), sequences, {got_k.view(), got_v.view()}));
  EXPECT_TRUE(SameBits(OnHost(got_k).view(), want_k.view()));
  EXPECT_TRUE(SameBits(OnHost(got_v).view(), want_v.view()));
}

// A prompt of two sequences over a grid line, then a token of each.
TEST_F(CudaBackendTest, LightningAttentionHasTheBitsOfThePlainLoop) {
  constexpr int64_t kHeads = 2;
  constexpr int64_t kDim = 32;
  const Tensor decays = random_.Make(DType::kF32, {kHeads});
  const Tensor gpu_decays = OnGpu(decays);
  struct Memory {
    Tensor state, open_k, open_v;
  };
  const auto memories = [&](KernelBackend& backend) {
    std::vector<Memory> made;
    for (int i = 0; i < 2; ++i) {
      made.push_back({backend.NewTensor(DType::kF32, {kHeads, kDim, kDim}),
                      backend.NewTensor(DType::kBf16, {kHeads, kLightningChunk, kDim}),
                      backend.NewTensor(DType::kBf16, {kHeads, kLightningChunk, kDim})});
    }
    return made;
  };
  std::vector<Memory> plain = memories(*plain_);
  std::vector<Memory> gpu = memories(*gpu_);
  const auto sequences = [](std::vector<Memory>& memory, std::vector<SequenceRows> rows) {
    std::vector<LightningSequence> made;
    for (size_t i = 0; i < rows.size(); ++i) {
      made.push_back(
          {rows[i], memory[i].state.view(), memory[i].open_k.view(), memory[i].open_v.view()});
    }
    return made;
  };
  const std::vector<std::vector<SequenceRows>> steps = {{{0, 40, 0}, {40, 3, 0}},
                                                        {{0, 1, 40}, {1, 1, 3}}};
  for (const std::vector<SequenceRows>& rows : steps) {
    const int64_t count = rows[0].num_rows + rows[1].num_rows;
    const Tensor qkv = random_.Make(DType::kBf16, {count, kHeads, 3, kDim});
    Tensor want(DType::kF32, {count, kHeads, kDim});
    Tensor got = Poison(DType::kF32, {count, kHeads, kDim});
    ASSERT_OK(
        plain_->LightningAttention(qkv.view(), decays.view(), sequences(plain, rows), want.view()));
    ASSERT_OK(gpu_->LightningAttention(OnGpu(qkv).view(), gpu_decays.view(), sequences(gpu, rows),
                                       got.view()));
    EXPECT_TRUE(SameBits(OnHost(got).view(), want.view()));
    EXPECT_TRUE(SameBits(OnHost(gpu[0].state).view(), plain[0].state.view()));
  }
}

// What gates are: K off the lanes too, more outputs than a block has.
TEST_F(CudaBackendTest, ProductsOfFloatsHaveTheBitsOfThePlainLoop) {
  for (const int64_t k : {1, 33, 64, 100}) {
    const Tensor x = random_.Make(DType::kF32, {3, k});
    const Tensor w = random_.Make(DType::kF32, {13, k});
    const Tensor gpu_x = OnGpu(x);
    const Tensor gpu_w = OnGpu(w);
    for (const Epilogue epilogue : {Epilogue::kNone, Epilogue::kSilu}) {
      Tensor want(DType::kF32, {3, 13});
      Tensor got = Poison(DType::kF32, {3, 13});
      ASSERT_OK(plain_->Linear(x.view(), w.view(), epilogue, want.view()));
      ASSERT_OK(gpu_->Linear(gpu_x.view(), gpu_w.view(), epilogue, got.view()));
      EXPECT_TRUE(SameBits(OnHost(got).view(), want.view())) << k;
    }
  }
}

// A matrix of random integers and its scales.
struct Integers {
  Tensor values;
  Tensor scales;

  MatrixView view() const { return {values.view(), scales.view()}; }
};

Integers RandomInt8(RandomTensors& random, int64_t n, int64_t k) {
  Integers made{Tensor(DType::kI8, {n, k}), Tensor(DType::kF32, {n})};
  for (int64_t i = 0; i < n * k; ++i) {
    made.values.data_as<int8_t>()[i] = static_cast<int8_t>(random.Integer(-127, 127));
  }
  for (int64_t i = 0; i < n; ++i) {
    made.scales.data_as<float>()[i] = 0.001f * static_cast<float>(random.Integer(1, 20));
  }
  return made;
}

TEST_F(CudaBackendTest, Int8ProductsHaveTheBitsOfThePlainLoops) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kIntermediate = 32;
  const Integers w1 = RandomInt8(random_, kIntermediate, kHidden);
  const Integers w3 = RandomInt8(random_, kIntermediate, kHidden);
  const Integers w2 = RandomInt8(random_, kHidden, kIntermediate);
  const auto on_gpu = [this](const Integers& w) {
    return Integers{OnGpu(w.values), OnGpu(w.scales)};
  };
  const Integers g1 = on_gpu(w1);
  const Integers g3 = on_gpu(w3);
  const Integers g2 = on_gpu(w2);
  const Tensor x = random_.Make(DType::kBf16, {kRows, kHidden});
  const Tensor gpu_x = OnGpu(x);
  const Tensor plain = random_.Make(DType::kBf16, {8, kHidden});
  const Tensor gpu_plain = OnGpu(plain);
  Tensor want[] = {Tensor(DType::kF32, {kRows, kIntermediate}),
                   Tensor(DType::kBf16, {kRows, kIntermediate}), Tensor(DType::kF32, {kRows, 8})};
  Tensor got[] = {OnGpu(want[0]), OnGpu(want[1]), OnGpu(want[2])};
  const LinearProduct wanted[] = {{w1.view(), Epilogue::kNone, want[0].view()},
                                  {w3.view(), Epilogue::kSilu, want[1].view()},
                                  {plain.view(), Epilogue::kNone, want[2].view()}};
  const LinearProduct products[] = {{g1.view(), Epilogue::kNone, got[0].view()},
                                    {g3.view(), Epilogue::kSilu, got[1].view()},
                                    {gpu_plain.view(), Epilogue::kNone, got[2].view()}};
  ASSERT_OK(plain_->Linears(x.view(), wanted));
  ASSERT_OK(gpu_->Linears(gpu_x.view(), products));
  EXPECT_TRUE(SameBits(OnHost(got[0]).view(), want[0].view()));
  EXPECT_TRUE(SameBits(OnHost(got[1]).view(), want[1].view()));
  EXPECT_LT(LargestDifference(OnHost(got[2]), want[2]), 1e-5);

  ASSERT_OK(plain_->GatedUp(x.view(), w1.view(), w3.view(), want[1].view()));
  ASSERT_OK(gpu_->GatedUp(gpu_x.view(), g1.view(), g3.view(), got[1].view()));
  EXPECT_TRUE(SameBits(OnHost(got[1]).view(), want[1].view()));

  Tensor want_out(DType::kBf16, {kRows, kHidden});
  Tensor got_out = OnGpu(want_out);
  const ExpertGroup group{1, 3, w1.view(), w2.view(), w3.view()};
  const ExpertGroup gpu_group{1, 3, g1.view(), g2.view(), g3.view()};
  ASSERT_OK(plain_->ExpertFfn(x.view(), {&group, 1}, want[1].view(), want_out.view()));
  ASSERT_OK(gpu_->ExpertFfn(gpu_x.view(), {&gpu_group, 1}, got[1].view(), got_out.view()));
  EXPECT_TRUE(SameBits(OnHost(got_out).view(), want_out.view()));
}

std::vector<float> Lse(KernelBackend& backend, ConstTensorView logits,
                       const std::vector<float>& temperatures) {
  std::vector<float> lse(temperatures.size());
  EXPECT_OK(backend.LogSumExp(logits, temperatures, lse));
  return lse;
}

TEST_F(CudaBackendTest, LogSumExpDrawsAndScoresAreThoseOfThePlainLoops) {
  Tensor logits = random_.Make(DType::kF32, {5, 700});
  for (int i = 0; i < 700; ++i) logits.data_as<float>()[i] *= 10.0f;
  logits.data_as<float>()[17] = logits.data_as<float>()[400];  // a tie
  Tensor on_gpu = OnGpu(logits);
  const std::vector<float> temperatures = {1.0f, 0.5f, 2.0f, 1.0f, 0.7f};
  const std::vector<float> lse = Lse(*plain_, logits.view(), temperatures);
  EXPECT_EQ(Lse(*gpu_, on_gpu.view(), temperatures), lse);

  const std::vector<LogitEdit> first = {{.id = 3, .offset = 9.0f}, {.id = 400, .penalty = 1.5f}};
  const std::vector<LogitEdit> last = {{.id = 699, .offset = 20.0f}};
  const std::vector<TokenDraw> draws = {
      {.row = 0, .edits = first, .temperature = 0.0f},
      {.row = 1, .temperature = 0.8f, .top_p = 0.9f, .uniform = 0.3},
      {.row = 3, .temperature = 1.0f, .top_k = 40, .uniform = 0.99},
      {.row = 4, .edits = last, .temperature = 1.3f, .min_p = 0.05f, .uniform = 0.6}};
  std::vector<int32_t> want(draws.size());
  std::vector<int32_t> got(draws.size());
  ASSERT_OK(plain_->DrawTokens(logits.view(), draws, want));
  ASSERT_OK(gpu_->DrawTokens(on_gpu.view(), draws, got));
  EXPECT_EQ(got, want);
  EXPECT_TRUE(SameBits(OnHost(on_gpu).view(), logits.view()));  // edits are undone

  const std::vector<ScoreRequest> requests = {
      {.row = 0, .id = want[0], .lse = lse[0], .candidate_count = 5},
      {.row = 2, .id = 11, .temperature = 2.0f, .lse = lse[2]},
      {.row = 4, .id = 699, .temperature = 0.7f, .lse = lse[4], .candidate_count = 2}};
  std::vector<TokenScore> want_scores(requests.size());
  std::vector<TokenScore> scores(requests.size());
  ASSERT_OK(plain_->ScoreTokens(logits.view(), requests, want_scores));
  ASSERT_OK(gpu_->ScoreTokens(on_gpu.view(), requests, scores));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(scores[i].id, want_scores[i].id);
    EXPECT_EQ(scores[i].logprob, want_scores[i].logprob);
    EXPECT_EQ(scores[i].rank, want_scores[i].rank);
    ASSERT_EQ(scores[i].candidates.size(), want_scores[i].candidates.size());
    for (size_t c = 0; c < scores[i].candidates.size(); ++c) {
      EXPECT_EQ(scores[i].candidates[c].id, want_scores[i].candidates[c].id);
      EXPECT_EQ(scores[i].candidates[c].logprob, want_scores[i].candidates[c].logprob);
    }
  }
}

// A prompt, a row in the middle of another sequence, a row beyond a segment: near the plain loop
// together, and the same bits alone.
TEST_F(CudaBackendTest, SoftmaxAttentionIsNearThePlainLoopAndRowIndependent) {
  constexpr int64_t kHeads = 4;
  constexpr int64_t kKvHeads = 2;
  constexpr int64_t kDim = 32;
  const Shape pool_shape{20, kKvHeads, kKvBlockTokens, kDim};
  Tensor k = random_.Make(DType::kBf16, pool_shape);
  Tensor v = random_.Make(DType::kBf16, pool_shape);
  Tensor gpu_k = OnGpu(k);
  Tensor gpu_v = OnGpu(v);
  const Tensor q = random_.Make(DType::kBf16, {22, kHeads, kDim});
  const Tensor gpu_q = OnGpu(q);
  std::vector<int32_t> long_table(17);
  std::iota(long_table.begin(), long_table.end(), 3);
  const std::vector<int32_t> prompt_table = {1};
  const std::vector<int32_t> middle_table = {2, 0};
  const std::vector<PagedSequence> sequences = {
      {{0, 20, 3}, prompt_table}, {{20, 1, 70}, middle_table}, {{21, 1, 1050}, long_table}};
  Tensor want(DType::kBf16, {22, kHeads, kDim});
  Tensor got = Poison(DType::kBf16, {22, kHeads, kDim});
  ASSERT_OK(plain_->SoftmaxAttention(q.view(), sequences, {k.view(), v.view()}, want.view()));
  ASSERT_OK(
      gpu_->SoftmaxAttention(gpu_q.view(), sequences, {gpu_k.view(), gpu_v.view()}, got.view()));
  const Tensor together = OnHost(got);
  EXPECT_LT(LargestDifference(together, want), 0.01);
  Tensor alone = Poison(DType::kBf16, {1, kHeads, kDim});
  for (const int64_t row : {0, 19, 20, 21}) {
    const size_t which = row < 20 ? 0 : static_cast<size_t>(row - 19);
    PagedSequence sequence = sequences[which];
    sequence.rows = {0, 1, sequence.rows.first_position + row - sequence.rows.row_begin};
    ASSERT_OK(gpu_->SoftmaxAttention(gpu_q.view().Rows(row, 1), {&sequence, 1},
                                     {gpu_k.view(), gpu_v.view()}, alone.view()));
    EXPECT_TRUE(SameBits(OnHost(alone).view(), together.view().Rows(row, 1))) << row;
  }
}

TEST_F(CudaBackendTest, WhatNoKernelTakesIsRefusedByName) {
  const auto refused = [](const absl::Status& status, const char* message) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(message)));
  };
  Tensor f32 = gpu_->NewTensor(DType::kF32, {2, 64});
  Tensor bf16 = gpu_->NewTensor(DType::kBf16, {2, 64});
  Tensor odd = gpu_->NewTensor(DType::kBf16, {2, 9});
  Tensor out = gpu_->NewTensor(DType::kF32, {2, 2});
  refused(gpu_->Round(f32.view(), f32.view()), "round: out is fp32, a GPU takes bf16");
  refused(gpu_->Linear(bf16.view(), f32.view(), Epilogue::kNone, out.view()),
          "linear: w is fp32, a GPU takes bf16");
  refused(gpu_->Linear(odd.view(), odd.view(), Epilogue::kNone, out.view()),
          "linear: w has shape [2, 9], a GPU takes multiples of 8 columns");
  Tensor many = gpu_->NewTensor(DType::kF32, {1, 300});
  Tensor ids = gpu_->NewTensor(DType::kI32, {1, 2});
  Tensor weights = gpu_->NewTensor(DType::kF32, {1, 2});
  refused(gpu_->TopKGate(many.view(), ids.view(), weights.view()),
          "top_k_gate: 2 of 300 experts, a GPU takes at most 32 of 256");
}

}  // namespace
}  // namespace m1
