// Linear, GatedUp and ExpertFfn with integer weights: worked out by hand, and every target and
// thread count against the plain loops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "tests/common/kernels/product_testing.h"

namespace m1 {
namespace {

using testing::HasSubstr;

constexpr std::array<int64_t, 9> kRowCounts{0, 1, 2, 3, 5, 17, 64, 65, 130};
constexpr std::array<int64_t, 7> kColumnCounts{0, 1, 3, 4, 33, 97, 100};
constexpr std::array<int64_t, 9> kInt8Ks{0, 1, 31, 63, 64, 65, 100, 128, 1000};

// int8 (group 0), or int4 in groups of 32 or 64.
struct Matrix {
  Tensor values;
  Tensor scales;
  MatrixView view() const { return {values.view(), scales.view()}; }
};

Matrix MakeMatrix(RandomTensors& random, int64_t group, int64_t n, int64_t k) {
  const bool int8 = group == 0;
  Matrix matrix{int8 ? Tensor(DType::kI8, {n, k}) : Tensor(DType::kU8, {n, k / 2}),
                int8 ? Tensor(DType::kF32, {n}) : Tensor(DType::kBf16, {n, k / group})};
  for (int64_t i = 0; i < matrix.values.shape().num_elements(); ++i) {
    if (int8) {
      matrix.values.data_as<int8_t>()[i] = static_cast<int8_t>(random.Integer(-127, 127));
    } else {
      matrix.values.data_as<uint8_t>()[i] = static_cast<uint8_t>(random.Integer(0, 255));
    }
  }
  for (int64_t i = 0; i < matrix.scales.shape().num_elements(); ++i) {
    const float scale = static_cast<float>(random.Integer(1, 1000)) * 1e-4f;
    if (int8) {
      matrix.scales.data_as<float>()[i] = scale;
    } else {
      matrix.scales.data_as<Bf16>()[i] = FloatToBf16(scale);
    }
  }
  return matrix;
}

float Element(const Matrix& matrix, int64_t row, int64_t column) {
  const MatrixView view = matrix.view();
  if (view.format() == MatrixFormat::kInt8) {
    return static_cast<float>(matrix.values.data_as<int8_t>()[row * view.dim(1) + column]) *
           matrix.scales.data_as<float>()[row];
  }
  const uint8_t byte = matrix.values.data_as<uint8_t>()[(row * view.dim(1) + column) / 2];
  const int nibble = column % 2 == 0 ? byte & 0xf : byte >> 4;
  return static_cast<float>(nibble - 8) *
         Bf16ToFloat(matrix.scales.data_as<Bf16>()[row * matrix.scales.shape()[1] +
                                                   column / view.group_size()]);
}

class QuantizedKernelsTest : public ProductTest {
 protected:
  std::vector<int64_t> KsOf(int64_t group) {
    if (group == 0) return {kInt8Ks.begin(), kInt8Ks.end()};
    return {0, group, 2 * group, 3 * group, 7 * group, 1024};
  }
};

// q = (127, -64, 0): 63.5 rounds to the even 64.
TEST_F(QuantizedKernelsTest, Int8ByHand) {
  Tensor x(DType::kF32, {1, 3});
  x.data_as<float>()[0] = 2.0f;
  x.data_as<float>()[1] = -1.0f;
  Matrix w{Tensor(DType::kI8, {2, 3}), Tensor(DType::kF32, {2})};
  const int8_t values[] = {1, 2, 3, -127, 127, 0};
  std::copy(std::begin(values), std::end(values), w.values.data_as<int8_t>());
  w.scales.data_as<float>()[0] = 0.5f;
  w.scales.data_as<float>()[1] = 3.0f;
  Tensor out(DType::kF32, {1, 2});
  ASSERT_OK(reference_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
  const float row_scale = 2.0f / 127.0f;
  EXPECT_EQ(out.data_as<float>()[0], (127.0f - 2 * 64.0f) * (row_scale * 0.5f));
  EXPECT_EQ(out.data_as<float>()[1], -127.0f * (127.0f + 64.0f) * (row_scale * 3.0f));
}

// One group of 32: x = 127 at 0 and 5, nibbles 15 and 0 there, 8 (nothing) elsewhere.
TEST_F(QuantizedKernelsTest, Int4ByHand) {
  Tensor x(DType::kF32, {1, 32});
  x.data_as<float>()[0] = 127.0f;
  x.data_as<float>()[5] = 127.0f;
  Matrix w{Tensor(DType::kU8, {1, 16}), Tensor(DType::kBf16, {1, 1})};
  for (int i = 0; i < 16; ++i) w.values.data_as<uint8_t>()[i] = 0x88;
  w.values.data_as<uint8_t>()[0] = 0x8f;
  w.values.data_as<uint8_t>()[2] = 0x08;
  w.scales.data_as<Bf16>()[0] = FloatToBf16(0.25f);
  Tensor out(DType::kF32, {1, 1});
  ASSERT_OK(reference_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
  EXPECT_EQ(out.data_as<float>()[0], (127.0f * 7 - 127.0f * 8) * 0.25f);
}

// Against a product in double, element by element: within half a step of the row's integers.
TEST_F(QuantizedKernelsTest, IsNearTheProductOfTheNumbers) {
  RandomTensors random(1);
  for (const int64_t group : {0, 32, 64}) {
    const Matrix w = MakeMatrix(random, group, 9, 192);
    const Tensor x = random.Make(DType::kBf16, {4, 192});
    Tensor out(DType::kF32, {4, 9});
    ASSERT_OK(reference_->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t column = 0; column < 9; ++column) {
        double want = 0;
        double bound = 1e-4;
        for (int64_t i = 0; i < 192; ++i) {
          const double number = Bf16ToFloat(x.data_as<Bf16>()[row * 192 + i]);
          want += number * double{Element(w, column, i)};
          bound += 0.51 / 127 * std::abs(double{Element(w, column, i)});
        }
        EXPECT_NEAR(double{out.data_as<float>()[row * 9 + column]}, want, bound);
      }
    }
  }
}

TEST_F(QuantizedKernelsTest, LinearEqualsThePlainLoopsForAllShapesAndTypes) {
  RandomTensors random(2);
  for (const int64_t group : {0, 32, 64}) {
    for (const int64_t k : KsOf(group)) {
      for (const int64_t n : kColumnCounts) {
        const Matrix w = MakeMatrix(random, group, n, k);
        for (const int64_t rows : kRowCounts) {
          const DType x_type = (rows + n) % 2 == 0 ? DType::kBf16 : DType::kF32;
          const Tensor x = random.Make(x_type, {rows, k});
          const bool silu = (rows + k + n) % 2 == 0;
          const DType out_type = (rows + k) % 2 == 0 ? DType::kF32 : DType::kBf16;
          ExpectLinearEqual(x.view(), w.view(), silu ? Epilogue::kSilu : Epilogue::kNone, out_type);
        }
      }
    }
  }
}

// One call for matrices of all formats, some of which share the row's integers.
TEST_F(QuantizedKernelsTest, ProductsTogetherEqualThemAlone) {
  RandomTensors random(12);
  constexpr int64_t kK = 192;
  const Tensor plain = random.Make(DType::kBf16, {37, kK});
  std::vector<Matrix> matrices;
  for (const int64_t group : {0, 32, 0, 64}) {
    matrices.push_back(MakeMatrix(random, group, 5 + 16 * group / 32, kK));
  }
  std::vector<MatrixView> views = {plain.view()};
  for (const Matrix& matrix : matrices) views.push_back(matrix.view());
  for (const int64_t rows : {0, 1, 19}) {
    const Tensor x = random.Make(DType::kBf16, {rows, kK});
    for (const auto& backend : backends_) {
      std::vector<Tensor> outs;
      for (const MatrixView& w : views) outs.push_back(Poisoned(DType::kF32, {rows, w.dim(0)}));
      std::vector<LinearProduct> products;
      for (size_t i = 0; i < views.size(); ++i) {
        products.push_back(
            {views[i], i % 2 == 0 ? Epilogue::kSilu : Epilogue::kNone, outs[i].view()});
      }
      ASSERT_OK(backend->Linears(x.view(), products));
      for (size_t i = 0; i < views.size(); ++i) {
        Tensor want = Poisoned(DType::kF32, outs[i].shape());
        ASSERT_OK(reference_->Linear(x.view(), views[i], products[i].epilogue, want.view()));
        EXPECT_TRUE(SameBits(outs[i].view(), want.view())) << backend->name() << " product " << i;
      }
    }
  }
}

// Every product as large as it can be, for as many elements as are allowed.
TEST_F(QuantizedKernelsTest, TheLargestSumsDoNotOverflow) {
  for (const int sign : {1, -1}) {
    Matrix w{Tensor(DType::kI8, {5, kMaxQuantizedK}), Tensor(DType::kF32, {5})};
    for (int64_t i = 0; i < 5 * kMaxQuantizedK; ++i) {
      w.values.data_as<int8_t>()[i] = static_cast<int8_t>(127 * sign);
    }
    for (int64_t i = 0; i < 5; ++i) w.scales.data_as<float>()[i] = 1.0f;
    Tensor x(DType::kF32, {5, kMaxQuantizedK});
    for (int64_t i = 0; i < 5 * kMaxQuantizedK; ++i) x.data_as<float>()[i] = 127.0f;
    ExpectLinearEqual(x.view(), w.view(), Epilogue::kNone, DType::kF32);
    Tensor out(DType::kF32, {5, 5});
    ASSERT_OK(backends_[0]->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
    EXPECT_EQ(out.data_as<float>()[24], static_cast<float>(sign * 127 * 127 * kMaxQuantizedK));
  }
}

TEST_F(QuantizedKernelsTest, GatedUpEqualsThePlainLoops) {
  RandomTensors random(3);
  for (const int64_t group : {0, 32, 64}) {
    for (const int64_t n : kColumnCounts) {
      const int64_t k = group == 0 ? 100 : 3 * group;
      const Matrix gate = MakeMatrix(random, group, n, k);
      const Matrix up = MakeMatrix(random, group, n, k);
      for (const int64_t rows : kRowCounts) {
        const Tensor x = random.Make(rows % 2 == 0 ? DType::kBf16 : DType::kF32, {rows, k});
        ExpectGatedUpEqual(x.view(), gate.view(), up.view());
      }
    }
  }
}

// Infinity and NaN spoil their own row and no other; zeros and subnormals give zeros.
TEST_F(QuantizedKernelsTest, RowsThatHaveNoScale) {
  RandomTensors random(4);
  for (const int64_t group : {0, 32, 64}) {
    for (const DType type : kActTypes) {
      const Matrix w = MakeMatrix(random, group, 7, 128);
      Tensor x = random.Make(type, {6, 128});
      const auto set = [&](int64_t row, int64_t i, float value) {
        if (type == DType::kBf16) {
          x.data_as<Bf16>()[row * 128 + i] = FloatToBf16(value);
        } else {
          x.data_as<float>()[row * 128 + i] = value;
        }
      };
      set(1, 5, std::numeric_limits<float>::infinity());
      set(2, 127, std::numeric_limits<float>::quiet_NaN());
      for (int64_t i = 0; i < 128; ++i) {
        set(3, i, 0.0f);
        set(4, i, 1e-40f);
        set(5, i, i % 2 == 0 ? 0x1p-100f : -0x1p-101f);
      }
      for (const DType out_type : kActTypes) {
        ExpectLinearEqual(x.view(), w.view(), Epilogue::kNone, out_type);
        ExpectLinearEqual(x.view(), w.view(), Epilogue::kSilu, out_type);
      }
      ExpectGatedUpEqual(x.view(), w.view(), w.view());
      Tensor out(DType::kF32, {6, 7});
      ASSERT_OK(backends_[0]->Linear(x.view(), w.view(), Epilogue::kNone, out.view()));
      for (int64_t i = 0; i < 7; ++i) {
        EXPECT_TRUE(std::isfinite(out.data_as<float>()[i]));
        EXPECT_TRUE(std::isnan(out.data_as<float>()[7 + i]));
        EXPECT_TRUE(std::isnan(out.data_as<float>()[14 + i]));
        EXPECT_EQ(out.data_as<float>()[21 + i], 0.0f);
        EXPECT_EQ(out.data_as<float>()[28 + i], 0.0f);
      }
    }
  }
}

// Halves between two integers are many here: x in steps of a / 254.
TEST_F(QuantizedKernelsTest, TiesRoundToEven) {
  RandomTensors random(5);
  const Matrix w = MakeMatrix(random, 0, 33, 255);
  Tensor x(DType::kF32, {1, 255});
  for (int64_t i = 0; i < 255; ++i) x.data_as<float>()[i] = static_cast<float>(i - 127) * 0.5f;
  x.data_as<float>()[0] = 127.0f;
  ExpectLinearEqual(x.view(), w.view(), Epilogue::kNone, DType::kF32);
}

TEST_F(QuantizedKernelsTest, ARowAloneEqualsTheRowInABatch) {
  RandomTensors random(6);
  for (const int64_t group : {0, 32, 64}) {
    const Tensor x = random.Make(DType::kBf16, {65, 192});
    const Matrix w = MakeMatrix(random, group, 100, 192);
    ExpectRowsAloneEqual(x.view(), w.view());
  }
}

TEST_F(QuantizedKernelsTest, ExpertFfnEqualsThePlainLoopsForUnevenGroups) {
  RandomTensors random(7);
  for (const int64_t group_size : {0, 32, 64}) {
    const int64_t hidden = group_size == 0 ? 100 : 128;
    const int64_t intermediate = group_size == 0 ? 67 : 192;
    for (const DType act : kActTypes) {
      ExpectExpertFfnEqual(random, act, hidden, intermediate, [&](int64_t n, int64_t k) {
        return MakeMatrix(random, group_size, n, k);
      });
    }
  }
}

TEST_F(QuantizedKernelsTest, WrongShapesAndTypesAreRefused) {
  const Tensor x(DType::kF32, {1, 64});
  Tensor out(DType::kF32, {1, 2});
  const Tensor int8(DType::kI8, {2, 64});
  const Tensor int4(DType::kU8, {2, 32});
  const auto refused = [&](const Tensor& values, const Tensor& scales, const char* message) {
    for (const auto& backend : backends_) {
      EXPECT_THAT(
          backend->Linear(x.view(), {values.view(), scales.view()}, Epilogue::kNone, out.view()),
          StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
    }
  };
  refused(int8, Tensor(DType::kF32, {3}), "linear: w: scales has shape [3], wanted [2]");
  refused(int8, Tensor(DType::kBf16, {2}), "linear: w: scales is bf16, wanted fp32");
  refused(Tensor(DType::kI8, {2, 63}), Tensor(DType::kF32, {2}), "linear: w has shape [2, 63]");
  refused(int4, Tensor(DType::kBf16, {2, 4}), "linear: w has scales of shape [2, 4]");
  refused(int4, Tensor(DType::kF32, {2, 2}), "linear: w: scales is fp32, wanted bf16");
  refused(int4, Tensor(DType::kBf16, {3, 2}), "linear: w: scales has shape [3, 2]");
  refused(Tensor(DType::kU8, {2, 31}), Tensor(DType::kBf16, {2, 1}), "linear: w has shape [2, 62]");

  const Tensor scales(DType::kF32, {2});
  const Tensor plain(DType::kF32, {2, 64});
  EXPECT_THAT(
      backends_[0]->GatedUp(x.view(), {int8.view(), scales.view()}, plain.view(), out.view()),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("gated_up: up is fp32 or bf16, wanted int8")));
  const Tensor wide_x(DType::kF32, {1, kMaxQuantizedK + 1});
  const Tensor wide(DType::kI8, {2, kMaxQuantizedK + 1});
  EXPECT_THAT(backends_[0]->Linear(wide_x.view(), {wide.view(), scales.view()}, Epilogue::kNone,
                                   out.view()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit 131072 for integers")));
}

}  // namespace
}  // namespace m1
