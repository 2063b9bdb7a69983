// CudaKernelBackend's products: near the plain loops, which add in another order, and of floats
// with their bits. That rows do not depend on one another: backend_bits_test.cc.
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

using CudaProductsTest = CudaBackendTest;

// q, k and v: one x, outputs of two types. bf16 rows in few and many; fp32 rows in three terms.
TEST_F(CudaProductsTest, LinearsAreNearThePlainLoops) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const int64_t hidden = sizes.hidden;
    const int64_t width = sizes.heads * sizes.head_dim;
    const Tensor wide = RandomWeights(DType::kBf16, 3 * width, hidden, 1);
    const Tensor narrow = RandomWeights(DType::kBf16, 33, hidden, 2);
    const Tensor gpu_wide = OnGpu(wide);
    const Tensor gpu_narrow = OnGpu(narrow);
    for (const int64_t rows : RowsUnderTest()) {
      for (const DType x_type : kActTypes) {
        const DType narrow_type = x_type == DType::kBf16 ? DType::kBf16 : DType::kF32;
        const Tensor x = RandomMatrix(x_type, {rows, hidden}, 3, -1);
        Tensor want_wide(DType::kF32, {rows, 3 * width});
        Tensor want_narrow(narrow_type, {rows, 33});
        const LinearProduct want[] = {{wide.view(), Epilogue::kNone, want_wide.view()},
                                      {narrow.view(), Epilogue::kSilu, want_narrow.view()}};
        ASSERT_OK(plain_->Linears(x.view(), want));
        Tensor got_wide = Poison(DType::kF32, {rows, 3 * width});
        Tensor got_narrow = Poison(narrow_type, {rows, 33});
        const Tensor gpu_x = OnGpu(x);
        const LinearProduct got[] = {{gpu_wide.view(), Epilogue::kNone, got_wide.view()},
                                     {gpu_narrow.view(), Epilogue::kSilu, got_narrow.view()}};
        ASSERT_OK(gpu_->Linears(gpu_x.view(), got));
        EXPECT_TRUE(Near(OnHost(got_wide), want_wide, ProductTolerance(hidden))) << rows;
        EXPECT_TRUE(Near(OnHost(got_narrow), want_narrow, ProductTolerance(hidden))) << rows;
      }
    }
  }
}

// K off the slices of 64, the steps of 16 and the padding of 32.
TEST_F(CudaProductsTest, ColumnsInAnyMultipleOfEight) {
  for (const int64_t k : {8, 24, 64, 72, 328}) {
    const Tensor w = RandomWeights(DType::kBf16, 37, k, 1);
    for (const int64_t rows : {3, 20, 40}) {
      for (const DType x_type : kActTypes) {
        const Tensor x = RandomMatrix(x_type, {rows, k}, 2, -1);
        Tensor want(DType::kF32, {rows, 37});
        Tensor got = Poison(DType::kF32, {rows, 37});
        ASSERT_OK(plain_->Linear(x.view(), w.view(), Epilogue::kNone, want.view()));
        ASSERT_OK(gpu_->Linear(OnGpu(x).view(), OnGpu(w).view(), Epilogue::kNone, got.view()));
        EXPECT_TRUE(Near(OnHost(got), want, ProductTolerance(k))) << k << " x " << rows;
      }
    }
  }
}

// The LM head: fp32 rows, the whole vocabulary. Rows rounded to bf16 would be off by far more.
TEST_F(CudaProductsTest, TheHeadHasFp32Accuracy) {
  const ModelSizes sizes = SizesUnderTest().back();
  const Tensor w = RandomWeights(DType::kBf16, sizes.vocab, sizes.hidden, 1);
  const Tensor gpu_w = OnGpu(w);
  for (const int64_t rows : {1, 9, 40}) {
    if (rows > 9 && !OnRealGpu()) break;
    const Tensor x = RandomMatrix(DType::kF32, {rows, sizes.hidden}, 2, -1);
    Tensor want(DType::kF32, {rows, sizes.vocab});
    Tensor got = Poison(DType::kF32, {rows, sizes.vocab});
    ASSERT_OK(plain_->Linear(x.view(), w.view(), Epilogue::kNone, want.view()));
    ASSERT_OK(gpu_->Linear(OnGpu(x).view(), gpu_w.view(), Epilogue::kNone, got.view()));
    EXPECT_TRUE(Near(OnHost(got), want, ProductTolerance(sizes.hidden))) << rows;
  }
}

// What gates are: K off the lanes too, more outputs than a block has.
TEST_F(CudaProductsTest, ProductsOfFloatsHaveTheBitsOfThePlainLoop) {
  for (const int64_t k : {int64_t{1}, int64_t{33}, int64_t{100}, SizesUnderTest().back().hidden}) {
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomMatrix(DType::kF32, {rows, k}, 1, -1);
      const Tensor w = RandomWeights(DType::kF32, 33, k, 2);
      const Tensor gpu_x = OnGpu(x);
      const Tensor gpu_w = OnGpu(w);
      for (const Epilogue epilogue : {Epilogue::kNone, Epilogue::kSilu}) {
        Tensor want(DType::kF32, {rows, 33});
        Tensor got = Poison(DType::kF32, {rows, 33});
        ASSERT_OK(plain_->Linear(x.view(), w.view(), epilogue, want.view()));
        ASSERT_OK(gpu_->Linear(gpu_x.view(), gpu_w.view(), epilogue, got.view()));
        EXPECT_TRUE(SameBits(OnHost(got).view(), want.view())) << k;
      }
    }
  }
}

TEST_F(CudaProductsTest, GatedUpIsNearThePlainLoop) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Tensor gate = RandomWeights(DType::kBf16, sizes.intermediate, sizes.hidden, 1);
    const Tensor up = RandomWeights(DType::kBf16, sizes.intermediate, sizes.hidden, 2);
    const Tensor gpu_gate = OnGpu(gate);
    const Tensor gpu_up = OnGpu(up);
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomMatrix(DType::kBf16, {rows, sizes.hidden}, 3, -1);
      Tensor want(DType::kBf16, {rows, sizes.intermediate});
      Tensor got = Poison(DType::kBf16, {rows, sizes.intermediate});
      ASSERT_OK(plain_->GatedUp(x.view(), gate.view(), up.view(), want.view()));
      ASSERT_OK(gpu_->GatedUp(OnGpu(x).view(), gpu_gate.view(), gpu_up.view(), got.view()));
      // A factor of up to 8 beside the sum that is off.
      EXPECT_TRUE(Near(OnHost(got), want, 16 * ProductTolerance(sizes.hidden))) << rows;
    }
  }
}

// A few experts' weights; groups take them in turn.
struct Experts {
  std::vector<Tensor> w1, w2, w3;

  ExpertGroup Group(int64_t begin, int64_t rows, size_t expert) const {
    return {begin, rows, w1[expert].view(), w2[expert].view(), w3[expert].view()};
  }
};

constexpr size_t kDistinctExperts = 3;

Experts RandomExperts(const ModelSizes& sizes) {
  Experts made;
  for (uint64_t e = 0; e < kDistinctExperts; ++e) {
    made.w1.push_back(RandomWeights(DType::kBf16, sizes.intermediate, sizes.hidden, 3 * e));
    made.w2.push_back(RandomWeights(DType::kBf16, sizes.hidden, sizes.intermediate, 3 * e + 1));
    made.w3.push_back(RandomWeights(DType::kBf16, sizes.intermediate, sizes.hidden, 3 * e + 2));
  }
  return made;
}

// Group g has expert g mod 3; between the groups a row of none.
std::vector<ExpertGroup> GroupsOf(const Experts& experts, const std::vector<int64_t>& rows) {
  std::vector<ExpertGroup> groups;
  int64_t begin = 0;
  for (size_t g = 0; g < rows.size(); ++g) {
    groups.push_back(experts.Group(begin, rows[g], g % kDistinctExperts));
    begin += rows[g] + 1;
  }
  return groups;
}

TEST_F(CudaProductsTest, ExpertsAreNearThePlainLoopsAndLeaveOtherRowsAlone) {
  for (const ModelSizes& sizes : SizesUnderTest()) {
    const Experts experts = RandomExperts(sizes);
    Experts gpu_experts;
    for (size_t e = 0; e < kDistinctExperts; ++e) {
      gpu_experts.w1.push_back(OnGpu(experts.w1[e]));
      gpu_experts.w2.push_back(OnGpu(experts.w2[e]));
      gpu_experts.w3.push_back(OnGpu(experts.w3[e]));
    }
    // Of all tile shapes; more groups than a launch takes.
    std::vector<std::vector<int64_t>> steps = {{1, 3, 9, 2}, std::vector<int64_t>(70, 1)};
    if (OnRealGpu()) steps.push_back({200, 1, 33, 0, 64});
    for (const std::vector<int64_t>& rows : steps) {
      const std::vector<ExpertGroup> groups = GroupsOf(experts, rows);
      const int64_t count = groups.back().row_begin + groups.back().num_rows + 1;
      const Tensor x = RandomMatrix(DType::kBf16, {count, sizes.hidden}, 9, -1);
      Tensor mid(DType::kBf16, {count, sizes.intermediate});
      Tensor want = Poisoned(DType::kBf16, x.shape());
      ASSERT_OK(plain_->ExpertFfn(x.view(), groups, mid.view(), want.view()));
      Tensor gpu_mid = Poison(DType::kBf16, mid.shape());
      Tensor gpu_out = Poison(DType::kBf16, x.shape());
      ASSERT_OK(gpu_->ExpertFfn(OnGpu(x).view(), GroupsOf(gpu_experts, rows), gpu_mid.view(),
                                gpu_out.view()));
      const Tensor got = OnHost(gpu_out);
      for (const ExpertGroup& group : groups) {
        const auto part = [&group](const Tensor& all) {
          Tensor rows_of(DType::kBf16, {group.num_rows, all.shape()[1]});
          EXPECT_OK(CreateReferenceBackend()->Upload(
              all.view().Rows(group.row_begin, group.num_rows), rows_of.view()));
          return rows_of;
        };
        // mid rounds the other way now and then: a unit of bf16 in some of its elements.
        EXPECT_TRUE(Near(part(got), part(want), 0.02)) << group.num_rows;
        const int64_t after = group.row_begin + group.num_rows;
        EXPECT_TRUE(SameBits(got.view().Rows(after, 1), want.view().Rows(after, 1)));
      }
    }
  }
}

}  // namespace
}  // namespace m1
