// Linear, GatedUp and ExpertFfn on every target and with 1 to 3 threads, against the plain loops.
#include <gtest/gtest.h>

#include <array>

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

constexpr std::array<int64_t, 10> kRowCounts{0, 1, 2, 3, 5, 17, 33, 64, 65, 130};
constexpr std::array<int64_t, 7> kSizes{0, 1, 31, 32, 33, 96, 100};

class ProductKernelsTest : public testing::Test {
 protected:
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();

  void ExpectLinearEqual(ConstTensorView x, ConstTensorView w, Epilogue epilogue, DType out_type) {
    const Shape shape{x.dim(0), w.dim(0)};
    Tensor want = Poisoned(out_type, shape);
    ASSERT_OK(reference_->Linear(x, w, epilogue, want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(out_type, shape);
      ASSERT_OK(backend->Linear(x, w, epilogue, got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view()))
          << backend->name() << " x " << x.shape().ToString() << DTypeName(x.dtype()) << " w "
          << w.shape().ToString() << DTypeName(w.dtype());
    }
  }

  void ExpectGatedUpEqual(ConstTensorView x, ConstTensorView gate, ConstTensorView up) {
    const Shape shape{x.dim(0), gate.dim(0)};
    Tensor want = Poisoned(x.dtype(), shape);
    ASSERT_OK(reference_->GatedUp(x, gate, up, want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(x.dtype(), shape);
      ASSERT_OK(backend->GatedUp(x, gate, up, got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }
};

TEST_F(ProductKernelsTest, LinearEqualsThePlainLoopsForAllShapesAndTypes) {
  RandomTensors random(1);
  for (const DType x_type : kActTypes) {
    for (const DType w_type : kActTypes) {
      for (const int64_t k : kSizes) {
        for (const int64_t n : kSizes) {
          const Tensor w = random.Make(w_type, {n, k});
          for (const int64_t rows : kRowCounts) {
            const Tensor x = random.Make(x_type, {rows, k});
            const bool silu = (rows + k + n) % 2 == 0;
            const DType out_type = (rows + k) % 2 == 0 ? DType::kF32 : DType::kBf16;
            ExpectLinearEqual(x.view(), w.view(), silu ? Epilogue::kSilu : Epilogue::kNone,
                              out_type);
          }
        }
      }
    }
  }
}

// Longer than one slice of K, wider than one block of columns.
TEST_F(ProductKernelsTest, LinearEqualsThePlainLoopsBeyondOneSliceOfK) {
  RandomTensors random(2);
  for (const DType type : kActTypes) {
    const Tensor x = random.Make(type, {67, 5000});
    const Tensor w = random.Make(type, {71, 5000});
    ExpectLinearEqual(x.view(), w.view(), Epilogue::kNone, DType::kF32);
    ExpectLinearEqual(x.view().Rows(0, 3), w.view(), Epilogue::kNone, DType::kBf16);
  }
}

TEST_F(ProductKernelsTest, GatedUpEqualsThePlainLoops) {
  RandomTensors random(3);
  for (const DType x_type : kActTypes) {
    for (const DType w_type : kActTypes) {
      for (const int64_t k : {1, 33, 96}) {
        for (const int64_t n : {0, 1, 33, 100}) {
          const Tensor gate = random.Make(w_type, {n, k});
          const Tensor up = random.Make(w_type, {n, k});
          for (const int64_t rows : kRowCounts) {
            const Tensor x = random.Make(x_type, {rows, k});
            ExpectGatedUpEqual(x.view(), gate.view(), up.view());
          }
        }
      }
    }
  }
}

TEST_F(ProductKernelsTest, SubnormalsAndInfinitiesGiveEqualBits) {
  for (const Spice spice : {Spice::kSubnormals, Spice::kInfinities}) {
    RandomTensors random(4, spice);
    for (const DType x_type : kActTypes) {
      for (const DType w_type : kActTypes) {
        const Tensor x = random.Make(x_type, {9, 100});
        const Tensor w = random.Make(w_type, {33, 100});
        ExpectLinearEqual(x.view(), w.view(), Epilogue::kNone, DType::kF32);
        ExpectLinearEqual(x.view(), w.view(), Epilogue::kSilu, DType::kBf16);
        ExpectGatedUpEqual(x.view(), w.view(), w.view());
      }
    }
  }
}

TEST_F(ProductKernelsTest, ARowAloneEqualsTheRowInABatch) {
  RandomTensors random(5);
  for (const DType type : kActTypes) {
    const Tensor x = random.Make(type, {65, 96});
    const Tensor w = random.Make(DType::kBf16, {100, 96});
    for (const auto& backend : backends_) {
      Tensor all = Poisoned(DType::kF32, {65, 100});
      ASSERT_OK(backend->Linear(x.view(), w.view(), Epilogue::kSilu, all.view()));
      for (const int64_t row : {0, 31, 64}) {
        Tensor one = Poisoned(DType::kF32, {1, 100});
        ASSERT_OK(backend->Linear(x.view().Rows(row, 1), w.view(), Epilogue::kSilu, one.view()));
        EXPECT_TRUE(SameBits(one.view(), all.view().Rows(row, 1))) << backend->name();
      }
    }
  }
}

TEST_F(ProductKernelsTest, ExpertFfnEqualsThePlainLoopsForUnevenGroups) {
  constexpr int64_t kHidden = 100;
  constexpr int64_t kIntermediate = 67;
  RandomTensors random(6);
  for (const DType act : kActTypes) {
    for (const DType weight : kActTypes) {
      std::vector<Tensor> weights;
      std::vector<ExpertGroup> groups;
      int64_t rows = 1;  // row 0 belongs to no group
      for (const int64_t group_rows : {1, 0, 2, 40, 1, 17}) {
        weights.push_back(random.Make(weight, {kIntermediate, kHidden}));
        weights.push_back(random.Make(weight, {kHidden, kIntermediate}));
        weights.push_back(random.Make(weight, {kIntermediate, kHidden}));
        groups.push_back({rows, group_rows, {}, {}, {}});
        rows += group_rows;
      }
      for (size_t g = 0; g < groups.size(); ++g) {
        groups[g].w1 = weights[3 * g].view();
        groups[g].w2 = weights[3 * g + 1].view();
        groups[g].w3 = weights[3 * g + 2].view();
      }
      const Tensor x = random.Make(act, {rows, kHidden});
      Tensor mid = Poisoned(act, {rows, kIntermediate});
      Tensor want = Poisoned(act, {rows, kHidden});
      ASSERT_OK(reference_->ExpertFfn(x.view(), groups, mid.view(), want.view()));
      for (const auto& backend : backends_) {
        Tensor got_mid = Poisoned(act, mid.shape());
        Tensor got = Poisoned(act, want.shape());
        ASSERT_OK(backend->ExpertFfn(x.view(), groups, got_mid.view(), got.view()));
        EXPECT_TRUE(SameBits(got_mid.view(), mid.view())) << backend->name();
        EXPECT_TRUE(SameBits(got.view(), want.view())) << backend->name();
      }
    }
  }
}

}  // namespace
}  // namespace m1
