// The operations that go over memory once, on every target and with 1 to 3 threads, against the
// plain loops.
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "absl/functional/function_ref.h"

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr std::array<int64_t, 6> kRowCounts{0, 1, 2, 5, 33, 65};
constexpr std::array<int64_t, 7> kWidths{1, 15, 16, 17, 31, 100, 1000};
constexpr Spice kSpices[] = {Spice::kNone, Spice::kSubnormals, Spice::kInfinities};

class RowKernelsTest : public testing::Test {
 protected:
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();

  using Run = absl::FunctionRef<absl::Status(KernelBackend& backend, TensorView out)>;

  void ExpectEqual(DType out_type, const Shape& shape, Run run) {
    Tensor want = Poisoned(out_type, shape);
    ASSERT_OK(run(*reference_, want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(out_type, shape);
      ASSERT_OK(run(*backend, got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }

  // f(random tensors, rows, width) for all shapes and spices.
  void ForShapes(absl::FunctionRef<void(RandomTensors& random, int64_t rows, int64_t n)> f) {
    for (const Spice spice : kSpices) {
      RandomTensors random(7, spice);
      for (const int64_t rows : kRowCounts) {
        for (const int64_t n : kWidths) f(random, rows, n);
      }
    }
  }
};

TEST_F(RowKernelsTest, EmbedEqualsThePlainLoop) {
  RandomTensors random(1);
  const std::vector<int32_t> ids{3, 0, 6, 3};
  for (const DType type : kActTypes) {
    for (const int64_t n : kWidths) {
      const Tensor table = random.Make(type, {7, n});
      ExpectEqual(DType::kF32, {4, n}, [&](KernelBackend& backend, TensorView out) {
        return backend.Embed(ids, table.view(), out);
      });
    }
  }
}

TEST_F(RowKernelsTest, RmsNormEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor x = random.Make(DType::kF32, {rows, n});
    const Tensor weight = random.Make(rows % 2 == 0 ? DType::kF32 : DType::kBf16, {n});
    ExpectEqual(DType::kF32, {rows, n}, [&](KernelBackend& backend, TensorView out) {
      return backend.RmsNorm(x.view(), weight.view(), 1e-5f, out);
    });
  });
}

TEST_F(RowKernelsTest, RmsNormMayWriteOverItsInput) {
  RandomTensors random(2);
  const Tensor x = random.Make(DType::kF32, {3, 100});
  const Tensor weight = random.Make(DType::kF32, {100});
  Tensor want(DType::kF32, {3, 100});
  ASSERT_OK(reference_->RmsNorm(x.view(), weight.view(), 1e-5f, want.view()));
  for (const auto& backend : backends_) {
    RandomTensors again(2);
    Tensor in_place = again.Make(DType::kF32, {3, 100});
    ASSERT_OK(backend->RmsNorm(in_place.view(), weight.view(), 1e-5f, in_place.view()));
    EXPECT_TRUE(SameBits(in_place.view(), want.view())) << backend->name();
  }
}

TEST_F(RowKernelsTest, RoundEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor x = random.Make(DType::kF32, {rows, n});
    for (const DType act : kActTypes) {
      ExpectEqual(act, {rows, n}, [&](KernelBackend& backend, TensorView out) {
        return backend.Round(x.view(), out);
      });
    }
  });
}

TEST_F(RowKernelsTest, ScaledAddEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor x = random.Make(DType::kF32, {rows, n});
    const Tensor y = random.Make(DType::kF32, {rows, n});
    ExpectEqual(DType::kF32, {rows, n}, [&](KernelBackend& backend, TensorView out) {
      return backend.ScaledAdd(3.55656f, x.view(), 0.75f, y.view(), out);
    });
  });
}

TEST_F(RowKernelsTest, SigmoidMulEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor gate = random.Make(DType::kF32, {rows, n});
    const Tensor x = random.Make(DType::kF32, {rows, n});
    for (const DType act : kActTypes) {
      ExpectEqual(act, {rows, n}, [&](KernelBackend& backend, TensorView out) {
        return backend.SigmoidMul(gate.view(), x.view(), out);
      });
    }
  });
}

TEST_F(RowKernelsTest, TopKGateEqualsThePlainLoop) {
  for (const int64_t experts : {1, 2, 31, 32, 33, 1024, 1025}) {
    RandomTensors random(3);
    const int64_t k = std::min<int64_t>(experts, 3);
    Tensor logits = random.Make(DType::kF32, {17, experts});
    // A tie, and a row of equal logits.
    logits.data_as<float>()[experts - 1] = logits.data_as<float>()[0];
    for (int64_t e = 0; e < experts; ++e) logits.data_as<float>()[experts + e] = 0.5f;
    Tensor want_ids(DType::kI32, {17, k});
    Tensor want(DType::kF32, {17, k});
    ASSERT_OK(reference_->TopKGate(logits.view(), want_ids.view(), want.view()));
    for (const auto& backend : backends_) {
      Tensor ids(DType::kI32, {17, k});
      Tensor weights(DType::kF32, {17, k});
      ASSERT_OK(backend->TopKGate(logits.view(), ids.view(), weights.view()));
      EXPECT_TRUE(SameBits(ids.view(), want_ids.view())) << backend->name();
      EXPECT_TRUE(SameBits(weights.view(), want.view())) << backend->name();
    }
  }
}

TEST_F(RowKernelsTest, CombineExpertsEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    for (const DType act : kActTypes) {
      const int64_t k = 1 + n % 3;
      const Tensor y = random.Make(act, {rows, k, n});
      const Tensor weights = random.Make(DType::kF32, {rows, k});
      ExpectEqual(DType::kF32, {rows, n}, [&](KernelBackend& backend, TensorView out) {
        return backend.CombineExperts(y.view(), weights.view(), out);
      });
    }
  });
}

TEST_F(RowKernelsTest, SharedExpertMixEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor moe = random.Make(DType::kF32, {rows, n});
    const Tensor shared = random.Make(DType::kF32, {rows, n});
    const Tensor logit = random.Make(DType::kF32, {rows, 1});
    ExpectEqual(DType::kF32, {rows, n}, [&](KernelBackend& backend, TensorView out) {
      return backend.SharedExpertMix(moe.view(), shared.view(), logit.view(), out);
    });
  });
}

TEST_F(RowKernelsTest, LogSumExpEqualsThePlainLoop) {
  ForShapes([&](RandomTensors& random, int64_t rows, int64_t n) {
    const Tensor logits = random.Make(DType::kF32, {rows, n});
    std::vector<float> temperatures;
    for (int64_t r = 0; r < rows; ++r) {
      temperatures.push_back(0.25f + 0.1f * static_cast<float>(r));
    }
    ExpectEqual(DType::kF32, {rows}, [&](KernelBackend& backend, TensorView out) {
      return backend.LogSumExp(logits.view(), temperatures,
                               {out.data_as<float>(), temperatures.size()});
    });
  });
}

TEST_F(RowKernelsTest, RotaryEqualsThePlainLoop) {
  for (const Spice spice : kSpices) {
    RandomTensors random(4, spice);
    for (const int64_t head_dim : {1, 5, 16, 48, 128}) {
      for (const int64_t half : {int64_t{0}, head_dim / 4, head_dim / 2}) {
        const Tensor x = random.Make(DType::kF32, {7, 3, head_dim});
        const Tensor cos = random.Make(DType::kF32, {7, half});
        const Tensor sin = random.Make(DType::kF32, {7, half});
        for (const DType act : kActTypes) {
          ExpectEqual(act, {7, 3, head_dim}, [&](KernelBackend& backend, TensorView out) {
            return backend.Rotary(x.view(), cos.view(), sin.view(), out);
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace m1
