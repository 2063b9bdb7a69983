// exp, log, sigmoid and silu against libm in double, and their vector forms against the scalar
// ones.
#include "common/kernels/exact_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <limits>
#include <vector>

#include "common/kernels/cpu/targets.h"
#include "common/tensor/tensor_view.h"
#include "tests/common/kernels/kernel_testing.h"

namespace m1 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMinNormal = std::numeric_limits<float>::min();

// The distance of `got` from `want` in units of the last place of a float near `want`.
double UlpError(float got, double want) {
  const int exponent = std::max(std::ilogb(want), -126);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, exponent - 23);
}

// All floats in [low, high] at a stride of bits, so that every binade is met.
std::vector<float> Floats(float low, float high) {
  std::vector<float> floats;
  constexpr uint32_t kStride = 9973;
  for (uint64_t bits = 0; bits <= 0xffffffffU; bits += kStride) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (x >= low && x <= high && (x == 0.0f || std::abs(x) >= kMinNormal)) floats.push_back(x);
  }
  return floats;
}

double MaxUlpError(float (*exact)(float), const std::function<double(double)>& want, float low,
                   float high) {
  const ScopedFlushDenormals flush;
  double worst = 0.0;
  for (const float x : Floats(low, high)) {
    const double wanted = want(static_cast<double>(x));
    if (std::abs(wanted) < static_cast<double>(kMinNormal)) continue;
    worst = std::max(worst, UlpError(exact(x), wanted));
  }
  return worst;
}

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Every float from 0 down to where the result is 0, on the best target. Sampling relies on it.
TEST(ExactMathTest, ExpIsMonotone) {
  const ScopedFlushDenormals flush;
  const auto target = std::find_if(CpuTargets().begin(), CpuTargets().end(), CanRun);
  const KernelTable& kernels = *target->kernels;
  constexpr uint32_t kMinusZero = 0x80000000U;
  const uint32_t end = std::bit_cast<uint32_t>(-90.0f);
  // The portable exp takes minutes for all.
  const uint32_t stride = target->name == std::string("portable") ? 37 : 1;
  std::vector<float> x(1 << 14);
  std::vector<float> y(x.size());
  float last = 1.0f;
  for (uint32_t bits = kMinusZero; bits < end;) {
    for (float& value : x) {
      value = std::bit_cast<float>(bits);
      bits += stride;
    }
    kernels.exact_function(ExactFunction::kExp, x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_LE(y[i], last) << x[i];
      last = y[i];
    }
  }
  EXPECT_EQ(last, 0.0f);
}

TEST(ExactMathTest, StaysWithinTheErrorsOfItsHeader) {
  const double exp_error = MaxUlpError(
      ExactExp, [](double x) { return std::exp(x); }, -87.3f, 88.7f);
  const double log_error = MaxUlpError(
      ExactLog, [](double x) { return std::log(x); }, kMinNormal, 3e38f);
  const double sigmoid_error = MaxUlpError(ExactSigmoid, Sigmoid, -87.0f, 100.0f);
  const double silu_error = MaxUlpError(
      ExactSilu, [](double x) { return x * Sigmoid(x); }, -87.0f, 1e30f);
  std::cout << "max ulp: exp " << exp_error << ", log " << log_error << ", sigmoid "
            << sigmoid_error << ", silu " << silu_error << "\n";
  EXPECT_LE(exp_error, 1.0);
  EXPECT_LE(log_error, 1.0);
  EXPECT_LE(sigmoid_error, 2.0);
  EXPECT_LE(silu_error, 2.5);
}

TEST(ExactMathTest, ExpAtTheEnds) {
  const ScopedFlushDenormals flush;
  EXPECT_EQ(ExactExp(0.0f), 1.0f);
  EXPECT_EQ(ExactExp(-0.0f), 1.0f);
  EXPECT_EQ(ExactExp(-88.0f), 0.0f);
  EXPECT_EQ(ExactExp(-kInfinity), 0.0f);
  EXPECT_EQ(ExactExp(89.0f), kInfinity);
  EXPECT_EQ(ExactExp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isfinite(ExactExp(88.7f)));
  EXPECT_TRUE(std::isnan(ExactExp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(ExactMathTest, LogAtTheEnds) {
  const ScopedFlushDenormals flush;
  EXPECT_EQ(ExactLog(1.0f), 0.0f);
  EXPECT_EQ(ExactLog(0.0f), -kInfinity);
  EXPECT_EQ(ExactLog(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(ExactLog(-1.0f)));
  EXPECT_TRUE(std::isnan(ExactLog(std::numeric_limits<float>::quiet_NaN())));
}

TEST(ExactMathTest, SigmoidAndSiluAtTheEnds) {
  const ScopedFlushDenormals flush;
  EXPECT_EQ(ExactSigmoid(0.0f), 0.5f);
  EXPECT_EQ(ExactSigmoid(200.0f), 1.0f);
  EXPECT_EQ(ExactSigmoid(-200.0f), 0.0f);
  EXPECT_EQ(ExactSilu(0.0f), 0.0f);
  EXPECT_EQ(ExactSilu(200.0f), 200.0f);
}

TEST(ExactMathTest, VectorFormsEqualTheScalarOnesOnEveryTarget) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xffffffffU; bits += 65521) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  // More where exp is neither 0 nor infinite: other roundings of a step show in one of thousands.
  for (float dense = -100.0f; dense < 100.0f; dense += 0.0003f) x.push_back(dense);
  const std::pair<ExactFunction, float (*)(float)> functions[] = {
      {ExactFunction::kExp, ExactExp},
      {ExactFunction::kLog, ExactLog},
      {ExactFunction::kSigmoid, ExactSigmoid},
      {ExactFunction::kSilu, ExactSilu}};
  const auto n = static_cast<int64_t>(x.size());
  const ScopedFlushDenormals flush;
  for (const auto& [function, scalar] : functions) {
    std::vector<float> want(x.size());
    std::transform(x.begin(), x.end(), want.begin(), scalar);
    for (const CpuTarget& target : CpuTargets()) {
      if (!CanRun(target)) continue;
      std::vector<float> got(x.size());
      target.kernels->exact_function(function, x.data(), got.data(), n);
      EXPECT_TRUE(SameBits({got.data(), DType::kF32, {n}}, {want.data(), DType::kF32, {n}}))
          << target.name << " function " << static_cast<int>(function);
    }
  }
}

}  // namespace
}  // namespace m1
