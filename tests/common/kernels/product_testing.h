// What the suites of the products share, whatever the weights' format: every backend against the
// plain loops.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {

class ProductTest : public testing::Test {
 protected:
  const std::unique_ptr<KernelBackend> reference_ = CreateReferenceBackend();
  const std::vector<std::unique_ptr<KernelBackend>> backends_ = AllCpuBackends();

  void ExpectLinearEqual(ConstTensorView x, const MatrixView& w, Epilogue epilogue,
                         DType out_type) {
    const Shape shape{x.dim(0), w.dim(0)};
    Tensor want = Poisoned(out_type, shape);
    ASSERT_OK(reference_->Linear(x, w, epilogue, want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(out_type, shape);
      ASSERT_OK(backend->Linear(x, w, epilogue, got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view()))
          << backend->name() << " x " << x.shape().ToString() << DTypeName(x.dtype()) << " w "
          << w.shape().ToString() << " format " << static_cast<int>(w.format()) << " group "
          << w.group_size();
    }
  }

  void ExpectGatedUpEqual(ConstTensorView x, const MatrixView& gate, const MatrixView& up) {
    const Shape shape{x.dim(0), gate.dim(0)};
    Tensor want = Poisoned(x.dtype(), shape);
    ASSERT_OK(reference_->GatedUp(x, gate, up, want.view()));
    for (const auto& backend : backends_) {
      Tensor got = Poisoned(x.dtype(), shape);
      ASSERT_OK(backend->GatedUp(x, gate, up, got.view()));
      ASSERT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }

  // x has at least 65 rows.
  void ExpectRowsAloneEqual(ConstTensorView x, const MatrixView& w) {
    for (const auto& backend : backends_) {
      Tensor all = Poisoned(DType::kF32, {x.dim(0), w.dim(0)});
      ASSERT_OK(backend->Linear(x, w, Epilogue::kSilu, all.view()));
      for (const int64_t row : {0, 31, 64}) {
        Tensor one = Poisoned(DType::kF32, {1, w.dim(0)});
        ASSERT_OK(backend->Linear(x.Rows(row, 1), w, Epilogue::kSilu, one.view()));
        EXPECT_TRUE(SameBits(one.view(), all.view().Rows(row, 1))) << backend->name();
      }
    }
  }

  // `make(n, k)` makes a matrix that has a view().
  template <typename MakeMatrix>
  void ExpectExpertFfnEqual(RandomTensors& random, DType act, int64_t hidden, int64_t intermediate,
                            MakeMatrix make) {
    std::vector<decltype(make(hidden, hidden))> weights;
    std::vector<ExpertGroup> groups;
    int64_t rows = 1;  // row 0 belongs to no group
    for (const int64_t group_rows : {1, 0, 2, 40, 1, 17}) {
      weights.push_back(make(intermediate, hidden));
      weights.push_back(make(hidden, intermediate));
      weights.push_back(make(intermediate, hidden));
      groups.push_back({rows, group_rows, {}, {}, {}});
      rows += group_rows;
    }
    for (size_t g = 0; g < groups.size(); ++g) {
      groups[g].w1 = weights[3 * g].view();
      groups[g].w2 = weights[3 * g + 1].view();
      groups[g].w3 = weights[3 * g + 2].view();
    }
    const Tensor x = random.Make(act, {rows, hidden});
    Tensor mid = Poisoned(act, {rows, intermediate});
    Tensor want = Poisoned(act, {rows, hidden});
    ASSERT_OK(reference_->ExpertFfn(x.view(), groups, mid.view(), want.view()));
    for (const auto& backend : backends_) {
      Tensor got_mid = Poisoned(act, mid.shape());
      Tensor got = Poisoned(act, want.shape());
      ASSERT_OK(backend->ExpertFfn(x.view(), groups, got_mid.view(), got.view()));
      EXPECT_TRUE(SameBits(got_mid.view(), mid.view())) << backend->name();
      EXPECT_TRUE(SameBits(got.view(), want.view())) << backend->name();
    }
  }
};

}  // namespace m1
