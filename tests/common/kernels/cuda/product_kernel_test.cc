// The tensor-core product in the simulator: equal, bit for bit, to a plain loop that takes K in
// steps of 16, and close to the specification.
#include "common/kernels/cuda/product_kernel.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "common/kernels/backend.h"
#include "tests/common/kernels/cuda/cuda_kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

// One accumulator, K steps of 16 ascending, K padded with zeros: what every shape must give.
float ModelSum(std::span<const Bf16> x, std::span<const Bf16> w) {
  float sum = 0.0f;
  for (size_t begin = 0; begin < x.size(); begin += kMmaK) {
    std::array<Bf16, kMmaK> a{};
    std::array<Bf16, kMmaK> b{};
    for (size_t i = 0; i < kMmaK && begin + i < x.size(); ++i) {
      a[i] = w[begin + i];
      b[i] = x[begin + i];
    }
    sum = MmaElement(sum, a, b);
  }
  return sum;
}

std::span<const Bf16> Row(const Tensor& matrix, int64_t row) {
  const auto k = static_cast<size_t>(matrix.view().dim(1));
  return Elements<Bf16>(matrix).subspan(static_cast<size_t>(row) * k, k);
}

template <typename Out>
DType DTypeOf() {
  return sizeof(Out) == 2 ? DType::kBf16 : DType::kF32;
}

struct Sizes {
  int64_t rows;
  int64_t n;
  int64_t k;
};

// One matrix (two if gated), rows in their own order.
template <typename Shape, typename Out>
class OneProduct {
 public:
  explicit OneProduct(const Sizes& sizes, ProductEpilogue epilogue = ProductEpilogue::kNone)
      : sizes_(sizes),
        epilogue_(epilogue),
        random_(7),
        x_(random_.Make(DType::kBf16, {Shape::kParts * sizes.rows, sizes.k})),
        w_(random_.Make(DType::kBf16, {sizes.n, sizes.k})),
        up_(random_.Make(DType::kBf16, {sizes.n, sizes.k})),
        out_(Poisoned(DTypeOf<Out>(), {sizes.rows, sizes.n})) {}

  void Check() {
    SimulatedMemory memory;
    memory.AddInput(Elements<Bf16>(std::as_const(x_)));
    memory.AddInput(Elements<Bf16>(std::as_const(w_)));
    if (Shape::kMatrices == 2) memory.AddInput(Elements<Bf16>(std::as_const(up_)));
    memory.AddOutput(Elements<Out>(out_));
    const ProductArgs args = Args();
    const SimulationReport report =
        RunClean(ProductGrid<Shape>(args), memory,
                 [&](SimulatedThread& thread) { ProductKernel<Shape, Out>(thread, args); });
    ExpectWritten(memory, std::span<const Out>(Elements<Out>(out_)), 1);
    EXPECT_GT(report.mmas, 0);
    ExpectModelsBits();
  }

  ProductArgs Args() {
    ProductArgs args;
    args.x = x_.view().template data_as<Bf16>();
    args.part_stride = sizes_.rows * sizes_.k;
    args.k = static_cast<int32_t>(sizes_.k);
    args.num_groups = 1;
    args.groups[0] = {.w = w_.view().template data_as<Bf16>(),
                      .up = Shape::kMatrices == 2 ? up_.view().template data_as<Bf16>() : nullptr,
                      .out = out_.view().data(),
                      .n = static_cast<int32_t>(sizes_.n),
                      .row_begin = 0,
                      .num_rows = static_cast<int32_t>(sizes_.rows),
                      .epilogue = epilogue_};
    return args;
  }

  const Tensor& x() const { return x_; }
  const Tensor& w() const { return w_; }
  const Tensor& out() const { return out_; }

 private:
  float Model(int64_t row, int64_t feature) {
    if (Shape::kMatrices == 2) {
      return Silu(ModelSum(Row(x_, row), Row(w_, feature))) *
             ModelSum(Row(x_, row), Row(up_, feature));
    }
    float sum = ModelSum(Row(x_, (Shape::kParts - 1) * sizes_.rows + row), Row(w_, feature));
    for (int64_t part = Shape::kParts - 2; part >= 0; --part) {
      sum = sum + ModelSum(Row(x_, part * sizes_.rows + row), Row(w_, feature));
    }
    return epilogue_ == ProductEpilogue::kSilu ? Silu(sum) : sum;
  }

  void ExpectModelsBits() {
    const ScopedFlushDenormals flush;
    Tensor want = Poisoned(DTypeOf<Out>(), {sizes_.rows, sizes_.n});
    for (int64_t row = 0; row < sizes_.rows; ++row) {
      for (int64_t feature = 0; feature < sizes_.n; ++feature) {
        want.view().template data_as<Out>()[row * sizes_.n + feature] =
            Narrow<Out>(Model(row, feature));
      }
    }
    EXPECT_TRUE(SameBits(out_.view(), want.view()))
        << "rows " << sizes_.rows << " n " << sizes_.n << " k " << sizes_.k;
  }

  const Sizes sizes_;
  const ProductEpilogue epilogue_;
  RandomTensors random_;
  Tensor x_, w_, up_, out_;
};

template <typename Shape>
class ProductKernelTest : public testing::Test {};

using Shapes = testing::Types<LinearOne, LinearFew, LinearMany, GatedOne, GatedFew, GatedMany,
                              SplitOne, SplitFew, SplitMany>;
TYPED_TEST_SUITE(ProductKernelTest, Shapes);

TYPED_TEST(ProductKernelTest, OneElement) { OneProduct<TypeParam, float>({1, 1, 8}).Check(); }

// More slices than stages, so that every stage is filled again; K off the slice.
TYPED_TEST(ProductKernelTest, LongRows) {
  OneProduct<TypeParam, float>({1, 17, (TypeParam::kStages + 2) * kSliceK + 24}).Check();
}

TYPED_TEST(ProductKernelTest, TilesOfBothKindsWithRemainders) {
  OneProduct<TypeParam, Bf16>({TypeParam::kTokens + 1, TypeParam::kFeatures + 3, 72}).Check();
}

TYPED_TEST(ProductKernelTest, WholeTiles) {
  OneProduct<TypeParam, float>({TypeParam::kTokens, TypeParam::kFeatures, kSliceK}).Check();
}

TEST(ProductEpilogueTest, AppliesSilu) {
  OneProduct<LinearOne, Bf16>({5, 40, 96}, ProductEpilogue::kSilu).Check();
}

// The error of a sum in another order: K roundings of the sum's size.
TEST(ProductSpecificationTest, IsCloseToThePlainLoops) {
  const Sizes sizes{9, 70, 328};
  OneProduct<LinearFew, float> product(sizes);
  product.Check();
  Tensor want(DType::kF32, {sizes.rows, sizes.n});
  ASSERT_OK(CreateReferenceBackend()->Linear(product.x().view(), product.w().view(),
                                             Epilogue::kNone, want.view()));
  for (int64_t row = 0; row < sizes.rows; ++row) {
    for (int64_t feature = 0; feature < sizes.n; ++feature) {
      float magnitude = 0.0f;
      for (int64_t i = 0; i < sizes.k; ++i) {
        magnitude += std::fabs(Bf16ToFloat(Row(product.x(), row)[static_cast<size_t>(i)]) *
                               Bf16ToFloat(Row(product.w(), feature)[static_cast<size_t>(i)]));
      }
      const int64_t at = row * sizes.n + feature;
      EXPECT_NEAR(product.out().view().data_as<float>()[at], want.view().data_as<float>()[at],
                  magnitude * 0x1p-23f * 4);
    }
  }
}

// Experts: groups of some rows each, none of one, rows taken and put by lists.
template <typename Shape>
void CheckExperts() {
  constexpr int64_t kHidden = 80;
  constexpr int64_t kInner = 40;
  const std::vector<int32_t> group_rows = {1, 0, Shape::kTokens + 2, 3};
  const std::vector<int32_t> gather = [&] {
    std::vector<int32_t> rows;
    const int32_t pairs = Shape::kTokens + 6;
    for (int32_t i = 0; i < pairs; ++i) rows.push_back(i * 5 % 7);
    return rows;
  }();
  std::vector<int32_t> scatter;
  for (size_t i = 0; i < gather.size(); ++i) {
    scatter.push_back(static_cast<int32_t>((i * 3 + 1) % gather.size()));
  }
  ASSERT_NE(gather.size() % 3, 0u);  // else `scatter` is no permutation

  RandomTensors random(11);
  const Tensor x = random.Make(DType::kBf16, {7, kHidden});
  Tensor out = Poisoned(DType::kBf16, {static_cast<int64_t>(gather.size()), kInner});
  std::vector<Tensor> weights;
  SimulatedMemory memory;
  for (size_t g = 0; g < 2 * group_rows.size(); ++g) {
    weights.push_back(random.Make(DType::kBf16, {kInner, kHidden}));
  }
  for (const Tensor& weight : weights) memory.AddInput(Elements<Bf16>(weight));
  memory.AddInput(Elements<Bf16>(x));
  memory.AddInput(std::span<const int32_t>(gather));
  memory.AddInput(std::span<const int32_t>(scatter));
  memory.AddOutput(Elements<Bf16>(out));

  ProductArgs args;
  args.x = x.view().data_as<Bf16>();
  args.gather = gather.data();
  args.scatter = scatter.data();
  args.k = kHidden;
  int32_t row = 0;
  for (size_t g = 0; g < group_rows.size(); ++g) {
    args.groups[args.num_groups++] = {.w = weights[2 * g].view().data_as<Bf16>(),
                                      .up = weights[2 * g + 1].view().data_as<Bf16>(),
                                      .out = out.view().data(),
                                      .n = kInner,
                                      .row_begin = row,
                                      .num_rows = group_rows[g]};
    row += group_rows[g];
  }
  ASSERT_EQ(row, static_cast<int32_t>(gather.size()));
  RunClean(ProductGrid<Shape>(args), memory,
           [&](SimulatedThread& thread) { ProductKernel<Shape, Bf16>(thread, args); });
  ExpectWritten(memory, std::span<const Bf16>(Elements<Bf16>(out)), 1);

  const ScopedFlushDenormals flush;
  for (int32_t g = 0; g < args.num_groups; ++g) {
    const ProductGroup& group = args.groups[g];
    for (int32_t i = group.row_begin; i < group.row_begin + group.num_rows; ++i) {
      const auto entry = static_cast<size_t>(i);
      for (int64_t f = 0; f < kInner; ++f) {
        const auto of = [&](size_t w) {
          return ModelSum(Row(x, gather[entry]), Row(weights[w], f));
        };
        const size_t w = 2 * static_cast<size_t>(g);
        ASSERT_EQ(out.view().data_as<Bf16>()[scatter[entry] * kInner + f],
                  FloatToBf16(Silu(of(w)) * of(w + 1)))
            << "pair " << i << " feature " << f;
      }
    }
  }
}

TEST(ProductGroupsTest, ExpertsOfOneRow) { CheckExperts<GatedOne>(); }
TEST(ProductGroupsTest, ExpertsOfFewRows) { CheckExperts<GatedFew>(); }

// q, k and v: matrices of different width share x.
TEST(ProductGroupsTest, MatricesOfDifferentWidthShareRows) {
  RandomTensors random(13);
  const Tensor x = random.Make(DType::kBf16, {9, 64});
  std::vector<Tensor> weights;
  std::vector<Tensor> outs;
  for (const int64_t n : {64, 8, 33}) {
    weights.push_back(random.Make(DType::kBf16, {n, 64}));
    outs.push_back(Poisoned(DType::kF32, {9, n}));
  }
  SimulatedMemory memory;
  memory.AddInput(Elements<Bf16>(x));
  ProductArgs args;
  args.x = x.view().data_as<Bf16>();
  args.k = 64;
  for (size_t g = 0; g < weights.size(); ++g) {
    memory.AddInput(Elements<Bf16>(std::as_const(weights[g])));
    memory.AddOutput(Elements<float>(outs[g]));
    args.groups[args.num_groups++] = {.w = weights[g].view().data_as<Bf16>(),
                                      .out = outs[g].view().data(),
                                      .n = static_cast<int32_t>(weights[g].view().dim(0)),
                                      .num_rows = 9};
  }
  RunClean(ProductGrid<LinearOne>(args), memory,
           [&](SimulatedThread& thread) { ProductKernel<LinearOne, float>(thread, args); });
  for (size_t g = 0; g < weights.size(); ++g) {
    ExpectWritten(memory, std::span<const float>(Elements<float>(outs[g])), 1);
    const int64_t n = weights[g].view().dim(0);
    for (int64_t i = 0; i < 9 * n; ++i) {
      ASSERT_EQ(outs[g].view().data_as<float>()[i],
                ModelSum(Row(x, i / n), Row(weights[g], i % n)));
    }
  }
}

}  // namespace
}  // namespace m1::cuda
