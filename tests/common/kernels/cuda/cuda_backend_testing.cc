#include "tests/common/kernels/cuda/cuda_backend_testing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <thread>

#include "common/base/check.h"
#include "common/kernels/cpu_backend.h"

namespace m1 {
namespace {

// splitmix64
class RandomWords {
 public:
  explicit RandomWords(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15U;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// A sign, a significand and one of eight binades.
float Number(uint64_t bits, int exponent) {
  constexpr int kBias = 127;
  const auto binade = static_cast<uint32_t>(kBias + exponent + 2 - static_cast<int>(bits >> 61));
  return std::bit_cast<float>((static_cast<uint32_t>(bits) & 0x807fffffU) | (binade << 23));
}

float ElementAt(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kBf16 ? Bf16ToFloat(tensor.data_as<Bf16>()[i])
                                        : tensor.data_as<float>()[i];
}

std::unique_ptr<KernelBackend> MakePlainBackend() {
  if (!OnRealGpu()) return CreateReferenceBackend();
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  auto backend = CreateCpuBackend({.num_threads = std::clamp(cores, 1, 1024), .target = ""});
  M1_CHECK_MSG(backend.ok(), std::string(backend.status().message()));
  return *std::move(backend);
}

}  // namespace

std::vector<ModelSizes> SizesUnderTest() {
  if (OnRealGpu()) return {kSmallSizes, ModelSizes{}};
  return {kSmallSizes};
}

std::vector<int64_t> RowsUnderTest() {
  if (OnRealGpu()) return {1, 2, 8, 9, 32, 33, 128, 200};
  return {1, 9, 40};
}

Tensor RandomMatrix(DType dtype, const Shape& shape, uint64_t seed, int exponent) {
  Tensor tensor(dtype, shape);
  RandomWords words(seed);
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const float number = Number(words.Next(), exponent);
    if (dtype == DType::kBf16) {
      tensor.data_as<Bf16>()[i] = FloatToBf16(number);
    } else {
      tensor.data_as<float>()[i] = number;
    }
  }
  return tensor;
}

Tensor RandomWeights(DType dtype, int64_t n, int64_t k, uint64_t seed) {
  const double exponent = -std::log2(static_cast<double>(k)) / 2 - 1;
  return RandomMatrix(dtype, {n, k}, seed, static_cast<int>(std::lround(exponent)));
}

Integers RandomIntegers(int64_t group, int64_t n, int64_t k, uint64_t seed) {
  const bool is_int8 = group == 0;
  Integers made{Tensor(is_int8 ? DType::kI8 : DType::kU8, {n, is_int8 ? k : k / 2}), Tensor()};
  RandomWords words(seed);
  for (int64_t i = 0; i < made.values.view().num_elements(); ++i) {
    const auto byte = static_cast<uint8_t>(words.Next());
    if (is_int8) {
      made.values.data_as<int8_t>()[i] = static_cast<int8_t>(byte == 0x80 ? 0 : byte);
    } else {
      made.values.data_as<uint8_t>()[i] = byte;
    }
  }
  // The integers' deviation is 74, or 4.6.
  const int exponent =
      static_cast<int>(std::lround(-std::log2(static_cast<double>(k)) / 2 - (is_int8 ? 7 : 3)));
  made.scales = is_int8 ? RandomMatrix(DType::kF32, {n}, seed + 1, exponent)
                        : RandomMatrix(DType::kBf16, {n, k / group}, seed + 1, exponent);
  return made;
}

double ProductTolerance(int64_t k) {
  return (static_cast<double>(k) / 16 + 1) * std::ldexp(1.0, -20);
}

testing::AssertionResult Near(const Tensor& got, const Tensor& want, double tolerance) {
  if (got.dtype() != want.dtype() || !(got.shape() == want.shape())) {
    return testing::AssertionFailure() << "other dtype or shape";
  }
  const double relative = want.dtype() == DType::kBf16 ? std::ldexp(1.0, -7) : 0.0;
  double worst = 0.0;
  int64_t at = 0;
  for (int64_t i = 0; i < want.shape().num_elements(); ++i) {
    const double wanted = ElementAt(want, i);
    const double excess = std::abs(ElementAt(got, i) - wanted) - relative * std::abs(wanted);
    if (excess <= worst) continue;  // not for NaN
    worst = excess;
    at = i;
    if (std::isnan(excess)) break;
  }
  if (worst <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "element " << at << " of " << want.shape().ToString() << ": " << ElementAt(got, at)
         << ", wanted " << ElementAt(want, at) << " +- " << tolerance;
}

CudaBackendTest::CudaBackendTest()
    : random_(7), plain_(MakePlainBackend()), gpu_(CreateCudaBackend().value()) {}

Tensor CudaBackendTest::OnGpu(const Tensor& host) {
  Tensor device = gpu_->NewTensor(host.dtype(), host.shape());
  EXPECT_OK(gpu_->Upload(host.view(), device.view()));
  return device;
}

Tensor CudaBackendTest::OnHost(const Tensor& device) {
  Tensor host = Poisoned(device.dtype(), device.shape());
  EXPECT_OK(gpu_->Download(device.view(), host.view()));
  return host;
}

}  // namespace m1
