// The products of integers in the simulator. int8: the bits of the plain loops. int4: the bits of a
// loop in the GPU's own order, and close to the plain loops.
#include "common/kernels/cuda/quant_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "common/kernels/backend.h"
#include "tests/common/kernels/cuda/quant_testing.h"
#include "tests/support/status_matchers.h"

namespace m1::cuda {
namespace {

template <typename Out>
constexpr DType kDType = sizeof(Out) == sizeof(Bf16) ? DType::kBf16 : DType::kF32;

struct Sizes {
  int64_t rows;
  int64_t n;
  int64_t k;
};

// One product, of one matrix or (gated) two.
class QuantProduct {
 public:
  QuantProduct(int64_t group, bool gated, const Sizes& sizes)
      : group_(group),
        gated_(gated),
        random_(7),
        x_(random_.Make(DType::kBf16, {sizes.rows, sizes.k})),
        w_(random_, group, sizes.n, sizes.k),
        up_(random_, group, sizes.n, sizes.k) {}

  Tensor& x() { return x_; }
  IntMatrix& w() { return w_; }
  void set_epilogue(ProductEpilogue epilogue) { epilogue_ = epilogue; }
  // Rows from the kernel that quantises them, which costs more than the product, not from the plain
  // loops.
  void UseKernelRows() { kernel_rows_ = true; }

  // The result for rows of x, in the shape given. Every element is written once.
  template <typename Shape, typename Out>
  Tensor Run(int64_t first_row, int64_t rows) {
    return RunIn<Out>(first_row, rows, [](const auto& args, auto run) {
      EXPECT_EQ(args.group_size, Shape::kGroup);
      run.template operator()<Shape>();
    });
  }
  // In the one that suits so many rows.
  template <typename Out>
  Tensor Run(int64_t first_row, int64_t rows) {
    return RunIn<Out>(first_row, rows, [&](const auto& args, auto run) {
      gated_ ? ForQuantGated(args, run) : ForQuantLinear(args, run);
    });
  }
  template <typename Out>
  Tensor Run() {
    return Run<Out>(0, x_.view().dim(0));
  }

  // In the GPU's order.
  template <typename Out>
  Tensor Model() {
    const ScopedFlushDenormals flush;
    const std::vector<QuantizedRow> rows = PlainRows(x_.view());
    const auto up = gated_ ? std::optional<MatrixView>(up_.view()) : std::nullopt;
    Tensor out = Poisoned(kDType<Out>, {x_.view().dim(0), n()});
    for (int64_t r = 0; r < out.view().dim(0); ++r) {
      for (int64_t f = 0; f < n(); ++f) {
        out.data_as<Out>()[r * n() + f] =
            Narrow<Out>(ModelElement(rows[static_cast<size_t>(r)], w_.view(), up, epilogue_, f));
      }
    }
    return out;
  }

  // Of the plain loops; gated: bf16.
  template <typename Out>
  Tensor Reference() {
    const std::unique_ptr<KernelBackend> reference = CreateReferenceBackend();
    Tensor out = Poisoned(kDType<Out>, {x_.view().dim(0), n()});
    const auto epilogue = epilogue_ == ProductEpilogue::kSilu ? Epilogue::kSilu : Epilogue::kNone;
    EXPECT_OK(gated_ ? reference->GatedUp(x_.view(), w_.view(), up_.view(), out.view())
                     : reference->Linear(x_.view(), w_.view(), epilogue, out.view()));
    return out;
  }

 private:
  int64_t n() const { return w_.view().dim(0); }

  // `choose(args, run)` calls run.operator()<Shape>().
  template <typename Out, typename Choose>
  Tensor RunIn(int64_t first_row, int64_t rows, Choose choose) {
    const ConstTensorView x = x_.view().Rows(first_row, rows);
    const IntRows integers = kernel_rows_ ? QuantizeInSimulator<Bf16>(x, OrderFor(group_))
                                          : RowsInOrder(PlainRows(x), OrderFor(group_));
    Tensor out = Poisoned(kDType<Out>, {rows, n()});
    SimulatedMemory memory;
    integers.AddTo(memory);
    w_.AddTo(memory);
    if (gated_) up_.AddTo(memory);
    memory.AddOutput(Elements<Out>(out));
    QuantProductArgs args;
    args.x = integers.values.data();
    args.x_scales = integers.scales.data();
    args.k = static_cast<int32_t>(x_.view().dim(1));
    args.group_size = static_cast<int32_t>(group_);
    args.num_groups = 1;
    args.groups[0] = {.w = w_.device(),
                      .up = gated_ ? up_.device() : QuantMatrix{},
                      .out = out.view().data(),
                      .n = static_cast<int32_t>(n()),
                      .num_rows = static_cast<int32_t>(rows),
                      .epilogue = epilogue_};
    EXPECT_TRUE(TakesQuantArgs(args));
    choose(args, [&]<typename Shape>() {
      RunClean(ProductGrid<Shape>(args), memory,
               [&](SimulatedThread& thread) { QuantProductKernel<Shape, Out>(thread, args); });
    });
    ExpectWritten(memory, std::span<const Out>(Elements<Out>(out)), 1);
    return out;
  }

  const int64_t group_;
  const bool gated_;
  RandomTensors random_;
  Tensor x_;
  IntMatrix w_;
  IntMatrix up_;
  ProductEpilogue epilogue_ = ProductEpilogue::kNone;
  bool kernel_rows_ = false;
};

template <typename Shape>
class QuantKernelTest : public testing::Test {
 protected:
  template <typename Out>
  void Check(const Sizes& sizes) {
    QuantProduct product(Shape::kGroup, Shape::kMatrices == 2, sizes);
    EXPECT_TRUE(SameBits(product.template Run<Shape, Out>(0, sizes.rows).view(),
                         product.template Model<Out>().view()))
        << "rows " << sizes.rows << " n " << sizes.n << " k " << sizes.k;
  }
  // The fewest elements that a row can be longer by.
  static constexpr int64_t kStep = Shape::kGroup == 0 ? 16 : Shape::kGroup;
};

using Shapes =
    testing::Types<QuantLinearOne<0>, QuantLinearFew<0>, QuantLinearMany<0>, QuantGatedOne<0>,
                   QuantGatedFew<0>, QuantGatedMany<0>, QuantLinearOne<32>, QuantLinearFew<32>,
                   QuantLinearMany<32>, QuantGatedOne<32>, QuantGatedFew<32>, QuantGatedMany<32>,
                   QuantLinearOne<64>, QuantLinearFew<64>, QuantLinearMany<64>, QuantGatedOne<64>,
                   QuantGatedFew<64>, QuantGatedMany<64>>;
TYPED_TEST_SUITE(QuantKernelTest, Shapes);

TYPED_TEST(QuantKernelTest, OneElement) { this->template Check<float>({1, 1, this->kStep}); }

// More slices than stages, so that every stage is filled again; scales in whole fours.
TYPED_TEST(QuantKernelTest, LongRows) {
  this->template Check<float>(
      {1, 17, (TypeParam::kStages + 1) * TypeParam::kSliceElements + 4 * this->kStep});
}

// Scales that no copy of 8 bytes could bring, K off the slice.
TYPED_TEST(QuantKernelTest, LongRowsOfOddGroups) {
  this->template Check<float>(
      {2, 9, TypeParam::kStages * TypeParam::kSliceElements + 3 * this->kStep});
}

TYPED_TEST(QuantKernelTest, TilesOfBothKindsWithRemainders) {
  this->template Check<Bf16>({TypeParam::kTokens + 1, TypeParam::kFeatures + 3, 3 * this->kStep});
}

TYPED_TEST(QuantKernelTest, WholeTiles) {
  this->template Check<float>(
      {TypeParam::kTokens, TypeParam::kFeatures, TypeParam::kSliceElements});
}

constexpr int64_t kFormats[] = {0, 32, 64};

// In the shape that so many rows take, few of them as the kernel quantises them.
TEST(QuantSpecificationTest, Int8HasTheBitsOfThePlainLoops) {
  for (const bool gated : {false, true}) {
    for (const int64_t rows : {1, 7, 8, 9, 33, 130}) {
      for (const int64_t k : {16, 64, 176}) {
        if (rows > 9 && k != 176) continue;
        QuantProduct product(0, gated, {rows, 37, k});
        if (rows <= 9) product.UseKernelRows();
        EXPECT_TRUE(SameBits(product.Run<Bf16>().view(), product.Reference<Bf16>().view()))
            << "rows " << rows << " k " << k;
        if (gated || rows > 9) continue;
        EXPECT_TRUE(SameBits(product.Run<float>().view(), product.Reference<float>().view()));
      }
    }
  }
}

// Two orders of adding the same terms: two roundings of each.
TEST(QuantSpecificationTest, Int4IsCloseToThePlainLoops) {
  for (const int64_t group : {32, 64}) {
    for (const int64_t rows : {1, 7, 8, 9, 33, 130}) {
      const Sizes sizes{rows, 37, 192};
      QuantProduct product(group, false, sizes);
      if (rows == 7) product.UseKernelRows();
      const Tensor got = product.Run<float>();
      EXPECT_TRUE(SameBits(got.view(), product.Model<float>().view())) << "rows " << rows;
      const Tensor want = product.Reference<float>();
      const std::vector<QuantizedRow> integers = PlainRows(product.x().view());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t f = 0; f < sizes.n; ++f) {
          float magnitude = 0.0f;
          const MatrixView w = product.w().view();
          for (int64_t i = 0; i < sizes.k; ++i) {
            const auto q =
                static_cast<float>(integers[static_cast<size_t>(r)].values[static_cast<size_t>(i)]);
            magnitude += std::fabs(q * static_cast<float>(Int4At(w, f, i)) *
                                   LoadAct(w.scales, f * w.scales.dim(1) + i / group));
          }
          magnitude *= integers[static_cast<size_t>(r)].scale;
          EXPECT_NEAR(got.data_as<float>()[r * sizes.n + f], want.data_as<float>()[r * sizes.n + f],
                      magnitude * 0x1p-22f);
        }
      }
    }
  }
}

TEST(QuantEpilogueTest, AppliesSilu) {
  for (const int64_t group : kFormats) {
    QuantProduct product(group, false, {5, 40, 128});
    product.set_epilogue(ProductEpilogue::kSilu);
    EXPECT_TRUE(SameBits(product.Run<Bf16>().view(), product.Model<Bf16>().view()));
    if (group != 0) continue;
    EXPECT_TRUE(SameBits(product.Run<float>().view(), product.Reference<float>().view()));
  }
}

// Infinity and NaN spoil their own row and no other; zeros and subnormals give zeros.
TEST(QuantRowsTest, RowsThatHaveNoScale) {
  for (const int64_t group : kFormats) {
    for (const bool gated : {false, true}) {
      QuantProduct product(group, gated, {6, 9, 128});
      product.UseKernelRows();
      StoreAct(product.x().view(), 128 + 5, std::numeric_limits<float>::infinity());
      StoreAct(product.x().view(), 2 * 128 + 127, std::numeric_limits<float>::quiet_NaN());
      for (int64_t i = 0; i < 128; ++i) {
        StoreAct(product.x().view(), 3 * 128 + i, 0.0f);
        StoreAct(product.x().view(), 4 * 128 + i, 1e-40f);
        StoreAct(product.x().view(), 5 * 128 + i, i % 2 == 0 ? 0x1p-100f : -0x1p-101f);
      }
      const Tensor out = product.Run<Bf16>();
      EXPECT_TRUE(SameBits(out.view(), product.Model<Bf16>().view()));
      if (group == 0) {
        EXPECT_TRUE(SameBits(out.view(), product.Reference<Bf16>().view()));
      }
      for (int64_t i = 0; i < 9; ++i) {
        EXPECT_TRUE(std::isfinite(LoadAct(out.view(), i)));
        EXPECT_TRUE(std::isnan(LoadAct(out.view(), 9 + i)));
        EXPECT_TRUE(std::isnan(LoadAct(out.view(), 18 + i)));
        EXPECT_EQ(LoadAct(out.view(), 27 + i), 0.0f);
        EXPECT_EQ(LoadAct(out.view(), 36 + i), 0.0f);
      }
    }
  }
}

// Every product as large as it can be.
TEST(QuantRowsTest, TheLargestSumsAreExact) {
  for (const int64_t group : kFormats) {
    const int64_t k = group == 0 ? kMaxQuantK : 256;
    QuantProduct product(group, false, {1, 1, k});
    for (int64_t i = 0; i < k; ++i) StoreAct(product.x().view(), i, 127.0f);
    for (int64_t i = 0; i < product.w().values().view().num_elements(); ++i) {
      if (group == 0) {
        product.w().values().data_as<int8_t>()[i] = -127;
      } else {
        product.w().values().data_as<uint8_t>()[i] = 0;
      }
    }
    const int64_t scales = group == 0 ? 1 : k / group;
    for (int64_t i = 0; i < scales; ++i) product.w().SetScale(i, 1.0f);
    const auto want = static_cast<float>(-127 * (group == 0 ? 127 : 8) * k);
    EXPECT_EQ(product.Run<float>().data_as<float>()[0], want);
  }
}

// In shapes for one, few and many rows.
TEST(QuantRowsTest, ARowAloneEqualsTheRowInABatch) {
  for (const int64_t group : kFormats) {
    for (const bool gated : {false, true}) {
      QuantProduct product(group, gated, {40, 35, 192});
      const Tensor all = product.Run<Bf16>();
      for (const int64_t row : {0, 31, 39}) {
        EXPECT_TRUE(SameBits(product.Run<Bf16>(row, 1).view(), all.view().Rows(row, 1)));
      }
      EXPECT_TRUE(SameBits(product.Run<Bf16>(19, 20).view(), all.view().Rows(19, 20)));
    }
  }
}

// Experts: groups of some rows each, none of one, rows taken and put by lists.
class ExpertsTest {
 public:
  static constexpr int64_t kInner = 41;

  ExpertsTest(int64_t group, bool gated, int32_t tile_rows)
      : gated_(gated), group_rows_{1, 0, tile_rows + 2, 3}, k_(group == 0 ? 80 : 3 * group) {
    const int32_t pairs = tile_rows + 6;
    for (int32_t i = 0; i < pairs; ++i) {
      gather_.push_back(i * 5 % 7);
      scatter_.push_back((i * 3 + 1) % pairs);
    }
    EXPECT_NE(pairs % 3, 0);  // else `scatter_` is no permutation
    RandomTensors random(11);
    const Tensor x = random.Make(DType::kBf16, {7, k_});
    rows_ = PlainRows(x.view());
    integers_ = RowsInOrder(rows_, OrderFor(group));
    for (size_t g = 0; g < 2 * group_rows_.size(); ++g) {
      weights_.emplace_back(random, group, kInner, k_);
    }
    args_.group_size = static_cast<int32_t>(group);
  }

  template <typename Shape>
  void Check() {
    Tensor out = Poisoned(DType::kBf16, {static_cast<int64_t>(gather_.size()), kInner});
    SimulatedMemory memory;
    FillArgs(out, memory);
    RunClean(ProductGrid<Shape>(args_), memory,
             [&](SimulatedThread& thread) { QuantProductKernel<Shape, Bf16>(thread, args_); });
    ExpectWritten(memory, std::span<const Bf16>(Elements<Bf16>(out)), 1);
    ExpectModel(out);
  }

 private:
  void FillArgs(Tensor& out, SimulatedMemory& memory) {
    integers_.AddTo(memory);
    for (const IntMatrix& weight : weights_) weight.AddTo(memory);
    memory.AddInput(std::span<const int32_t>(gather_));
    memory.AddInput(std::span<const int32_t>(scatter_));
    memory.AddOutput(Elements<Bf16>(out));
    args_.x = integers_.values.data();
    args_.x_scales = integers_.scales.data();
    args_.gather = gather_.data();
    args_.scatter = scatter_.data();
    args_.k = static_cast<int32_t>(k_);
    int32_t row = 0;
    for (size_t g = 0; g < group_rows_.size(); ++g) {
      args_.groups[args_.num_groups++] = {
          .w = weights_[2 * g].device(),
          .up = gated_ ? weights_[2 * g + 1].device() : QuantMatrix{},
          .out = out.view().data(),
          .n = kInner,
          .row_begin = row,
          .num_rows = group_rows_[g]};
      row += group_rows_[g];
    }
    ASSERT_EQ(row, static_cast<int32_t>(gather_.size()));
  }

  void ExpectModel(const Tensor& out) {
    const ScopedFlushDenormals flush;
    for (size_t g = 0; g < group_rows_.size(); ++g) {
      const auto up = gated_ ? std::optional<MatrixView>(weights_[2 * g + 1].view()) : std::nullopt;
      const int32_t begin = args_.groups[g].row_begin;
      for (int32_t i = begin; i < begin + group_rows_[g]; ++i) {
        const auto entry = static_cast<size_t>(i);
        const QuantizedRow& row = rows_[static_cast<size_t>(gather_[entry])];
        for (int64_t f = 0; f < kInner; ++f) {
          ASSERT_EQ(
              out.data_as<Bf16>()[scatter_[entry] * kInner + f],
              FloatToBf16(ModelElement(row, weights_[2 * g].view(), up, ProductEpilogue::kNone, f)))
              << "pair " << i << " feature " << f;
        }
      }
    }
  }

  const bool gated_;
  const std::vector<int32_t> group_rows_;
  const int64_t k_;
  std::vector<int32_t> gather_;
  std::vector<int32_t> scatter_;
  std::vector<QuantizedRow> rows_;
  IntRows integers_;
  std::vector<IntMatrix> weights_;
  QuantProductArgs args_;
};

template <int group>
void CheckExperts() {
  ExpertsTest(group, true, QuantGatedOne<group>::kTokens).Check<QuantGatedOne<group>>();
  ExpertsTest(group, true, QuantGatedFew<group>::kTokens).Check<QuantGatedFew<group>>();
  ExpertsTest(group, false, QuantLinearOne<group>::kTokens).Check<QuantLinearOne<group>>();
  ExpertsTest(group, false, QuantLinearFew<group>::kTokens).Check<QuantLinearFew<group>>();
}

TEST(QuantGroupsTest, ExpertsInInt8) { CheckExperts<0>(); }
TEST(QuantGroupsTest, ExpertsInInt4OfGroupsOf32) { CheckExperts<32>(); }
TEST(QuantGroupsTest, ExpertsInInt4OfGroupsOf64) { CheckExperts<64>(); }

// q, k and v: matrices of different width share x.
TEST(QuantGroupsTest, MatricesOfDifferentWidthShareRows) {
  using Shape = QuantLinearOne<32>;
  RandomTensors random(13);
  const Tensor x = random.Make(DType::kBf16, {9, 64});
  const std::vector<QuantizedRow> rows = PlainRows(x.view());
  const IntRows integers = RowsInOrder(rows, QuantOrder::kEvenOdd);
  std::vector<IntMatrix> weights;
  std::vector<Tensor> outs;
  for (const int64_t n : {64, 8, 33}) {
    weights.emplace_back(random, 32, n, 64);
    outs.push_back(Poisoned(DType::kF32, {9, n}));
  }
  SimulatedMemory memory;
  integers.AddTo(memory);
  QuantProductArgs args;
  args.x = integers.values.data();
  args.x_scales = integers.scales.data();
  args.k = 64;
  args.group_size = 32;
  for (size_t g = 0; g < weights.size(); ++g) {
    weights[g].AddTo(memory);
    memory.AddOutput(Elements<float>(outs[g]));
    args.groups[args.num_groups++] = {.w = weights[g].device(),
                                      .out = outs[g].view().data(),
                                      .n = static_cast<int32_t>(outs[g].view().dim(1)),
                                      .num_rows = 9};
  }
  RunClean(ProductGrid<Shape>(args), memory,
           [&](SimulatedThread& thread) { QuantProductKernel<Shape, float>(thread, args); });
  for (size_t g = 0; g < weights.size(); ++g) {
    ExpectWritten(memory, std::span<const float>(Elements<float>(outs[g])), 1);
    const int64_t n = outs[g].view().dim(1);
    for (int64_t i = 0; i < 9 * n; ++i) {
      ASSERT_EQ(outs[g].data_as<float>()[i],
                ModelDot(rows[static_cast<size_t>(i / n)], weights[g].view(), i % n));
    }
  }
}

}  // namespace
}  // namespace m1::cuda
