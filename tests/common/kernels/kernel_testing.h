// What the kernel suites share: tensors of random numbers, comparison of bits, backends to compare.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/kernels/backend.h"
#include "common/tensor/tensor.h"

namespace m1 {

// The targets that this machine runs, each with 1, 2 and 3 threads.
std::vector<std::unique_ptr<KernelBackend>> AllCpuBackends();

// What random tensors hold besides numbers in [-1, 1).
enum class Spice { kNone, kSubnormals, kInfinities };

class RandomTensors {
 public:
  explicit RandomTensors(uint32_t seed, Spice spice = Spice::kNone)
      : random_(seed), spice_(spice) {}

  Tensor Make(DType dtype, const Shape& shape);
  // Uniform integer in [low, high].
  int64_t Integer(int64_t low, int64_t high);

 private:
  float Number();

  std::mt19937 random_;
  Spice spice_;
};

// Every byte 0xff: NaN in both float types. What a kernel must not read, or must overwrite.
Tensor Poisoned(DType dtype, const Shape& shape);

// Equal bits, where any NaN equals any other. The message names the first element that differs.
testing::AssertionResult SameBits(ConstTensorView got, ConstTensorView want);

// NaN and infinities of the same sign in the same elements, numbers in the others.
testing::AssertionResult SameKinds(ConstTensorView got, ConstTensorView want);

inline constexpr DType kActTypes[] = {DType::kF32, DType::kBf16};
inline constexpr Bf16 kNotFinite[] = {0x7f80, 0xff80, 0x7fc0};  // inf, -inf, NaN

}  // namespace m1
