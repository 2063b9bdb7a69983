// Linear, GatedUp and ExpertFfn on every target and with 1 to 3 threads, against the plain loops.
#include <gtest/gtest.h>

#include <array>

#include "tests/common/kernels/product_testing.h"

namespace m1 {
namespace {

constexpr std::array<int64_t, 10> kRowCounts{0, 1, 2, 3, 5, 17, 33, 64, 65, 130};
constexpr std::array<int64_t, 7> kSizes{0, 1, 31, 32, 33, 96, 100};

using ProductKernelsTest = ProductTest;

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
    ExpectRowsAloneEqual(x.view(), w.view());
  }
}

TEST_F(ProductKernelsTest, ExpertFfnEqualsThePlainLoopsForUnevenGroups) {
  RandomTensors random(6);
  for (const DType act : kActTypes) {
    for (const DType weight : kActTypes) {
      ExpectExpertFfnEqual(random, act, 100, 67, [&](int64_t n, int64_t k) {
        return random.Make(weight, {n, k});
      });
    }
  }
}

}  // namespace
}  // namespace m1
