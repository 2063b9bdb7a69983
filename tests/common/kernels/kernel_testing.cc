#include "tests/common/kernels/kernel_testing.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"

namespace m1 {

std::vector<std::unique_ptr<KernelBackend>> AllCpuBackends() {
  std::vector<std::unique_ptr<KernelBackend>> backends;
  for (const std::string& target : SupportedCpuTargets()) {
    for (const int threads : {1, 2, 3}) {
      auto backend = CreateCpuBackend({.num_threads = threads, .target = target});
      M1_CHECK(backend.ok());
      backends.push_back(std::move(backend).value());
    }
  }
  return backends;
}

Tensor RandomTensors::Make(DType dtype, const Shape& shape) {
  Tensor tensor(dtype, shape);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    if (dtype == DType::kBf16) {
      tensor.data_as<Bf16>()[i] = FloatToBf16(Number());
    } else {
      tensor.data_as<float>()[i] = Number();
    }
  }
  return tensor;
}

int64_t RandomTensors::Integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_);
}

float RandomTensors::Number() {
  const float number = std::uniform_real_distribution<float>(-1.0f, 1.0f)(random_);
  if (spice_ == Spice::kNone || random_() % 16 != 0) return number;
  if (spice_ == Spice::kInfinities) {
    return std::copysign(std::numeric_limits<float>::infinity(), number);
  }
  // Subnormal, or so small that a product with another is.
  return number * (random_() % 2 == 0 ? std::numeric_limits<float>::min() : 1e-20f);
}

Tensor Poisoned(DType dtype, const Shape& shape) {
  Tensor tensor(dtype, shape);
  if (shape.num_elements() > 0) {
    std::memset(tensor.view().data(), 0xff, static_cast<size_t>(tensor.view().num_bytes()));
  }
  return tensor;
}

namespace {

// The bits of element i; one value for every NaN.
uint32_t Bits(ConstTensorView view, int64_t i) {
  switch (view.dtype()) {
    case DType::kI32:
      return static_cast<uint32_t>(view.data_as<int32_t>()[i]);
    case DType::kBf16: {
      const Bf16 bits = view.data_as<Bf16>()[i];
      return std::isnan(Bf16ToFloat(bits)) ? 0x7fc0U : bits;
    }
    default: {
      const float value = view.data_as<float>()[i];
      return std::isnan(value) ? 0x7fc00000U : std::bit_cast<uint32_t>(value);
    }
  }
}

enum class Kind { kNumber, kInfinity, kMinusInfinity, kNaN };

// Of an element of bf16 or fp32.
Kind KindOf(ConstTensorView view, int64_t i) {
  const float value = view.dtype() == DType::kBf16 ? Bf16ToFloat(view.data_as<Bf16>()[i])
                                                   : view.data_as<float>()[i];
  if (std::isnan(value)) return Kind::kNaN;
  if (!std::isinf(value)) return Kind::kNumber;
  return value > 0 ? Kind::kInfinity : Kind::kMinusInfinity;
}

}  // namespace

testing::AssertionResult SameBits(ConstTensorView got, ConstTensorView want) {
  if (got.dtype() != want.dtype() || !(got.shape() == want.shape())) {
    return testing::AssertionFailure() << "other dtype or shape";
  }
  for (int64_t i = 0; i < want.num_elements(); ++i) {
    if (Bits(got, i) != Bits(want, i)) {
      return testing::AssertionFailure()
             << "element " << i << " of " << want.shape().ToString() << ": bits " << std::hex
             << Bits(got, i) << ", wanted " << Bits(want, i);
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult SameKinds(ConstTensorView got, ConstTensorView want) {
  if (got.dtype() != want.dtype() || !(got.shape() == want.shape())) {
    return testing::AssertionFailure() << "other dtype or shape";
  }
  for (int64_t i = 0; i < want.num_elements(); ++i) {
    if (KindOf(got, i) != KindOf(want, i)) {
      return testing::AssertionFailure()
             << "element " << i << " of " << want.shape().ToString() << ": bits " << std::hex
             << Bits(got, i) << ", wanted the kind of " << Bits(want, i);
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace m1
