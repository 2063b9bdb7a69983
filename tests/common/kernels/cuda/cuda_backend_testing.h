// What the suites of CudaKernelBackend share: a backend beside the one whose results it must have,
// operands on the GPU, sizes.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/kernels/cuda_backend.h"
#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/status_matchers.h"

namespace m1 {

struct ModelSizes {
  int64_t hidden = 6144;
  int64_t heads = 64;
  int64_t kv_heads = 8;
  int64_t head_dim = 128;
  int64_t rotary_half = 32;
  int64_t intermediate = 9216;
  int64_t vocab = 200'064;
  int64_t experts = 32;
};

// Off every tile; the simulator takes them, too.
inline constexpr ModelSizes kSmallSizes{.hidden = 192,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 32,
                                        .rotary_half = 8,
                                        .intermediate = 64,
                                        .vocab = 1'003,
                                        .experts = 5};

// Small ones; on a real GPU those of MiniMax-M1, too.
std::vector<ModelSizes> SizesUnderTest();
// Rows of a step: of all three tile shapes of a product, on a real GPU up to 200.
std::vector<int64_t> RowsUnderTest();

// A bf16 or fp32 matrix of random signs, and magnitudes of eight binades below 2^(exponent + 3), so
// that hardly a sum of products is exact; root mean square near 2^(exponent + 1). M1's largest
// matrix is there in a second, where RandomTensors takes ten.
Tensor RandomMatrix(DType dtype, const Shape& shape, uint64_t seed, int exponent = -3);
// Products with `k` columns of these are near 1.
Tensor RandomWeights(DType dtype, int64_t n, int64_t k, uint64_t seed);

// A matrix of random integers and its scales: int8 (group 0), or int4 in groups of 32 or 64.
struct Integers {
  Tensor values;
  Tensor scales;

  MatrixView view() const { return {values.view(), scales.view()}; }
};
Integers RandomIntegers(int64_t group, int64_t n, int64_t k, uint64_t seed);

// How far an element of an fp32 sum of `k` products of magnitude near 1 / sqrt(k) may be from that
// of another order: an mma step of 16 may lose two bits of the sum so far.
double ProductTolerance(int64_t k);

// |got - want| <= tolerance for each element, and of bf16 a unit in the last place more. The
// message names the worst one.
testing::AssertionResult Near(const Tensor& got, const Tensor& want, double tolerance);

class CudaBackendTest : public testing::Test {
 protected:
  CudaBackendTest();

  // A copy on the GPU, and back.
  Tensor OnGpu(const Tensor& host);
  Integers OnGpu(const Integers& host) { return {OnGpu(host.values), OnGpu(host.scales)}; }
  Tensor OnHost(const Tensor& device);
  Tensor Poison(DType dtype, const Shape& shape) { return OnGpu(Poisoned(dtype, shape)); }

  RandomTensors random_;
  // The plain loops. On a real GPU, where much is multiplied, the CPU's kernels: the same bits.
  std::unique_ptr<KernelBackend> plain_;
  std::unique_ptr<KernelBackend> gpu_;
};

}  // namespace m1
